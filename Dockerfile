# The image: `docker run pyconsul -server -bootstrap`. scripts/docker-build builds it, with or without an image registry.
# Only features of the legacy builder. BASE_IMAGE needs Python >= 3.11 with venv and pip; RUNTIME_IMAGE may be a smaller
# system with the same interpreter at the same path (scripts/docker-base.sh makes such a pair).
ARG BASE_IMAGE=python:3.13-slim-bookworm
ARG RUNTIME_IMAGE=${BASE_IMAGE}

FROM ${BASE_IMAGE} AS build
ARG PIP_ARGS=""
COPY . /src/
# wheels/ holds what scripts/docker-build fetched on the host for this interpreter; without it the index is asked.
RUN python3 -m venv /opt/pyconsul \
 && if ls /src/wheels/*.whl >/dev/null 2>&1; then set -- --no-index --find-links=/src/wheels; fi \
 && /opt/pyconsul/bin/pip install --no-cache-dir --no-compile "$@" $PIP_ARGS -c /src/constraints.txt -r /src/requirements.txt \
 && site=$(/opt/pyconsul/bin/python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])') \
 && cp -r /src/pyconsul_agent "$site/" \
 && rm -rf "$site/pyconsul_agent/sim" \
 && printf '#!/opt/pyconsul/bin/python3\nimport sys\nfrom pyconsul_agent.cli.main import main\nsys.exit(main())\n' >/opt/pyconsul/bin/pyconsul \
 && chmod 755 /opt/pyconsul/bin/pyconsul \
 && ln -s pyconsul /opt/pyconsul/bin/consul \
 && install -m 755 /src/docker/pyconsul-init /opt/pyconsul/bin/pyconsul-init \
 && /opt/pyconsul/bin/pip uninstall -y -q setuptools pip \
 && find /opt/pyconsul \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.c' -o -name '*.h' -o -name '*.cpp' -o -name tests -o -name __pycache__ \) -prune -exec rm -rf {} + \
 && /opt/pyconsul/bin/python3 -m compileall -q /opt/pyconsul/lib

FROM ${RUNTIME_IMAGE}
RUN groupadd --system --gid 850 pyconsul \
 && useradd --system --home-dir /data --no-create-home --uid 850 --gid 850 pyconsul \
 && mkdir -p /data /config \
 && chown pyconsul:pyconsul /data /config
COPY --from=build /opt/pyconsul /opt/pyconsul
COPY docker/start docker/check-http docker/check-cmd /bin/
COPY docker/config/ /config/
ENV PATH=/opt/pyconsul/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1 SHELL=/bin/bash
EXPOSE 53 53/udp 8300 8301 8301/udp 8302 8302/udp 8400 8500
VOLUME ["/data"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["pyconsul", "healthcheck"]
ENTRYPOINT ["/bin/start"]
CMD []

// Uses npm's `consul` as programs do: node drive_npm.js FOLDER ADDRESS PORT NAME; FOLDER has node_modules.
// Prints a JSON object a step: step, good, detail.
"use strict";

const { createRequire } = require("module");
const { isDeepStrictEqual } = require("util");
const [folder, host, port, name] = process.argv.slice(2);
const Consul = createRequire(`${folder}/package.json`)("consul");
const c = new Consul({ host, port: Number(port) });
const BYTES = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
const WAIT_MS = 15000;

const show = (value) => JSON.stringify(value, (_, v) => (typeof v === "bigint" ? String(v) : v));
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const note = (step, good, detail = "") =>
  console.log(JSON.stringify({ step, good: Boolean(good), detail: String(detail) }));
const equal = (step, got, wanted) => note(step, isDeepStrictEqual(got, wanted), `${show(got)} is not ${show(wanted)}`);
const no = (step, got) => note(step, !got, show(got)); // this client has undefined for the answer `false`

async function refused(step, status, text, call) {
  try {
    note(step, false, `no error but ${show(await call())}`);
  } catch (error) {
    const body = error.response ? String(show(error.response.body)) : "";
    note(step, error.statusCode === status && (error.message + body).includes(text), `${error.message} ${body}`);
  }
}

async function until(step, look) {
  const end = Date.now() + WAIT_MS;
  let result;
  while (!(result = await look()) && Date.now() < end) await sleep(100);
  note(step, result, `last: ${show(result)}`);
  return result;
}

async function kv() {
  equal("kv: set", await c.kv.set("app/a", "one"), true);
  const row = await c.kv.get("app/a");
  equal("kv: get", [row.Key, row.Value, row.Flags], ["app/a", "one", 0]);
  await c.kv.set({ key: "app/bytes", value: BYTES, flags: 42 });
  const bytes = await c.kv.get({ key: "app/bytes", buffer: true });
  equal("kv: any bytes and flags", [BYTES.equals(bytes.Value), bytes.Flags], [true, 42]);
  equal("kv: raw bytes", BYTES.equals(await c.kv.get({ key: "app/bytes", raw: true })), true);
  equal("kv: a missing key", await c.kv.get("none"), undefined);
  no("kv: cas with a stale index", await c.kv.set({ key: "app/a", value: "two", cas: "1" }));
  equal("kv: cas 0 on a new key", await c.kv.set({ key: "app/new", value: "1", cas: "0" }), true);
  equal("kv: cas with the index", await c.kv.set({ key: "app/a", value: "two", cas: row.ModifyIndex }), true);
  const rows = await c.kv.get({ key: "app/", recurse: true });
  equal("kv: recurse, in order", rows.map((r) => r.Key), ["app/a", "app/bytes", "app/new"]);
  await c.kv.set("app/deep/1", "x");
  const keys = await c.kv.keys({ key: "app/", separator: "/" });
  equal("kv: keys with separator", keys, ["app/a", "app/bytes", "app/deep/", "app/new"]);
  equal("kv: odd characters in a key", await c.kv.set("app/ü x&?#", "odd"), true);
  equal("kv: and it is read", (await c.kv.get("app/ü x&?#")).Key, "app/ü x&?#");
  equal("kv: consistent read", (await c.kv.get({ key: "app/a", consistent: true })).Value, "two");
  equal("kv: stale read", (await c.kv.get({ key: "app/a", stale: true })).Value, "two");
  const index = (await c.kv.get("app/a")).ModifyIndex;
  const waiting = c.kv.get({ key: "app/a", index, wait: "30s" });
  const early = await Promise.race([waiting.then(() => true), sleep(400).then(() => false)]);
  await c.kv.set("app/a", "three");
  equal("kv: a blocking read wakes", [early, (await waiting).Value], [false, "three"]);
  no("kv: delete with a stale cas", await c.kv.del({ key: "app/a", cas: "1" }));
  equal("kv: recursive delete", await c.kv.del({ key: "app/", recurse: true }), true);
  equal("kv: all is gone", await c.kv.get({ key: "app/", recurse: true }), undefined);
  await refused("kv: a value that is too large", 413, "", () => c.kv.set("big", "x".repeat(512 * 1024 + 1)));
}

async function transactions() {
  const value = BYTES.toString("base64");
  const answer = await c.transaction.create([
    { KV: { Verb: "set", Key: "t/a", Value: value } },
    { KV: { Verb: "get", Key: "t/a" } },
  ]);
  equal("transaction: what was set is read", [answer.Errors, answer.Results[1].KV.Value], [null, value]);
  const wrong = [{ KV: { Verb: "check-index", Key: "t/a", Index: 1 } }];
  await refused("transaction: one that fails says which", 409, "", () => c.transaction.create(wrong));
}

async function watches() {
  const seen = [];
  const watch = c.watch({ method: c.kv.get, options: { key: "watched", wait: "20s" }, backoffFactor: 100 });
  watch.on("change", (row) => seen.push(row ? row.Value : null));
  watch.on("error", (error) => seen.push(error.message));
  await until("watch: the first answer, of a key that is not there", async () => seen.length === 1 && seen[0] === null);
  await c.kv.set("watched", "1");
  await until("watch: it is told of the first value", async () => seen[1] === "1");
  await c.kv.set("watched", "2");
  await until("watch: and of the next", async () => seen[2] === "2");
  await c.kv.set("unwatched", "3");
  await sleep(300);
  equal("watch: and of nothing else", seen, [null, "1", "2"]);
  watch.end();
}

async function sessions() {
  const mine = (await c.session.create({ name: "mine", ttl: "10s", behavior: "delete", lockdelay: "0s" })).ID;
  const other = (await c.session.create({ name: "other", lockdelay: "0s" })).ID;
  const row = await c.session.get(mine);
  equal("session: get", [row.Name, row.TTL, row.Behavior, row.Node], ["mine", "10s", "delete", name]);
  equal("session: list", (await c.session.list()).map((s) => s.ID).sort(), [mine, other].sort());
  equal("session: of a node", (await c.session.node(name)).length, 2);
  equal("session: renew", (await c.session.renew(mine))[0].ID, mine);
  equal("lock: acquire", await c.kv.set({ key: "lock", value: "m", acquire: mine }), true);
  no("lock: held, so not for others", await c.kv.set({ key: "lock", value: "o", acquire: other }));
  equal("lock: its row", (await c.kv.get("lock")).Session, mine);
  equal("lock: release", await c.kv.set({ key: "lock", value: "", release: mine }), true);
  equal("lock: free for others", await c.kv.set({ key: "lock", value: "o", acquire: other }), true);
  await c.session.destroy(other);
  equal("lock: free when its session has gone", (await c.kv.get("lock")).Session, undefined);
  await c.kv.set({ key: "lock", value: "m", acquire: mine });
  await c.session.destroy(mine);
  equal("lock: with behavior delete the key goes with its session", await c.kv.get("lock"), undefined);
  await refused("session: renew of a gone one", 404, "not found", () => c.session.renew(mine));
}

async function agent() {
  const self = await c.agent.self();
  equal("agent: self", [self.Config.NodeName, self.Member.Addr], [name, host]);
  equal("agent: members", (await c.agent.members()).map((m) => m.Name), [name]);
  equal("agent: WAN members", (await c.agent.members({ wan: true })).map((m) => m.Name), [`${name}.dc1`]);
  await c.agent.service.register({
    name: "web", id: "web1", address: "10.0.0.1", port: 8080, tags: ["v1", "blue"], meta: { k: "v" },
    check: { ttl: "10m", notes: "alive" },
  });
  await c.agent.service.register({ name: "web", id: "web2", port: 8081, tags: ["v2"] });
  const service = (await c.agent.service.list()).web1;
  equal("agent: services", [service.Service, service.Port, service.Tags, service.Meta], ["web", 8080, ["v1", "blue"], { k: "v" }]);
  const status = async () => (await c.agent.check.list())["service:web1"].Status;
  equal("agent: a TTL check starts critical", await status(), "critical");
  for (const [call, word] of [["pass", "passing"], ["warn", "warning"], ["fail", "critical"]]) {
    await c.agent.check[call]({ id: "service:web1", note: `now ${word}` });
    const check = (await c.agent.check.list())["service:web1"];
    equal(`agent: ${call}`, [check.Status, check.Output], [word, `now ${word}`]);
  }
  await c.agent.check.register({ name: "up", id: "up", http: `http://${host}:${port}/v1/status/leader`, interval: "1s" });
  await until("agent: an HTTP check passes", async () => (await c.agent.check.list()).up.Status === "passing");
  await c.agent.check.deregister("up");
  equal("agent: deregister a check", "up" in (await c.agent.check.list()), false);
  await c.agent.service.maintenance({ id: "web1", enable: true, reason: "upgrade" });
  equal("agent: maintenance of a service", "_service_maintenance:web1" in (await c.agent.checks()), true);
  await c.agent.service.maintenance({ id: "web1", enable: false });
  await c.agent.maintenance({ enable: true, reason: "all of it" });
  equal("agent: maintenance of the node", (await c.agent.checks())._node_maintenance.Notes, "all of it");
  await c.agent.maintenance(false);
  equal("agent: and none afterwards", "_node_maintenance" in (await c.agent.checks()), false);
  await c.agent.reload();
  await refused("agent: pass a check that is not there", 500, "nothere", () => c.agent.check.pass("nothere"));
}

async function catalog() {
  equal("catalog: datacenters", await c.catalog.datacenters(), ["dc1"]);
  await c.catalog.register({ node: "ext", address: "10.9.9.9", service: { service: "db", port: 5432 } });
  equal("catalog: nodes", (await c.catalog.node.list()).map((n) => n.Node).sort(), ["ext", name].sort());
  await until("catalog: services", async () => "web" in (await c.catalog.service.list()));
  equal("catalog: a service", (await c.catalog.service.nodes("db")).map((s) => s.ServicePort), [5432]);
  equal("catalog: a node", Object.keys((await c.catalog.node.services("ext")).Services), ["db"]);
  await c.catalog.deregister("ext");
  equal("catalog: deregister", (await c.catalog.service.nodes("db")).length, 0);
}

async function health() {
  await c.agent.check.pass("service:web1");
  const passing = async (more) =>
    (await c.health.service({ service: "web", passing: true, ...more })).map((row) => row.Service.ID).sort();
  await until("health: passing instances", async () => isDeepStrictEqual(await passing(), ["web1", "web2"]));
  equal("health: with a tag", await passing({ tag: "v1" }), ["web1"]);
  equal("health: with a filter", await passing({ filter: 'Service.Meta.k == "v"' }), ["web1"]);
  const seen = [];
  const watch = c.watch({ method: c.health.service, options: { service: "web", passing: true, wait: "20s" } });
  watch.on("change", (rows) => seen.push(rows.length));
  watch.on("error", (error) => seen.push(error.message));
  await until("health: a watch has both", async () => seen.at(-1) === 2);
  await c.agent.check.fail("service:web1");
  await until("health: it is told that one fails", async () => seen.at(-1) === 1);
  watch.end();
  equal("health: checks of a service", (await c.health.checks("web")).map((r) => r.Status), ["critical"]);
  equal("health: checks by state", (await c.health.state("critical")).map((r) => r.CheckID), ["service:web1"]);
  equal("health: checks of a node", (await c.health.node(name)).map((r) => r.CheckID).includes("serfHealth"), true);
  await c.agent.service.deregister("web1");
  await until("health: it has gone", async () => (await c.health.service("web")).length === 1);
}

async function rest() {
  const fired = await c.event.fire("deploy", "payload");
  const found = await until("event: fired and listed", async () => (await c.event.list("deploy"))[0]);
  equal("event: its parts", [found.ID, found.Name, found.Payload], [fired.ID, "deploy", "payload"]);
  equal("status: leader", await c.status.leader(), `${host}:8300`);
  equal("status: peers", await c.status.peers(), [`${host}:8300`]);
  const made = (await c.query.create({ name: "q", service: { service: "web", tags: ["v2"] }, dns: { ttl: "10s" } })).ID;
  equal("query: get", (await c.query.get(made)).Service.Tags, ["v2"]);
  equal("query: execute", (await c.query.execute("q")).Nodes.map((n) => n.Service.ID), ["web2"]);
  await c.query.update({ query: made, name: "q2", service: { service: "web" } });
  equal("query: update", (await c.query.list()).map((q) => q.Name), ["q2"]);
  await c.query.destroy(made);
  equal("query: destroy", await c.query.list(), []);
  for (const call of ["list", "bootstrap"]) {
    if (c.acl[call]) await refused(`acl: ${call} with ACLs off`, 401, "ACL support disabled", () => c.acl[call]());
  }
  await refused("acl: legacy list with ACLs off", 401, "ACL support disabled", () => c.acl.legacy.list());
  await refused("acl: legacy info with ACLs off", 401, "ACL support disabled", () => c.acl.legacy.get("x"));
}

(async () => {
  for (const part of [kv, transactions, watches, sessions, agent, catalog, health, rest]) await part();
  c.destroy();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});

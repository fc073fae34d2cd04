// The web interface: read-only. Whatever comes from the cluster is hostile text: it reaches the page through
// textContent only, and addresses through encodeURIComponent only.
"use strict";

const view = document.getElementById("view");
const datacenter = document.getElementById("datacenter");
const token = document.getElementById("token");
const VALUE_CHARACTERS_MAX = 100000;
let turn = 0;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = String(text);
  if (className) made.className = className;
  return made;
}

function link(text, ...path) {
  const made = element("a", text);
  made.href = "#/" + path.map(encodeURIComponent).join("/");
  return made;
}

async function get(path, parameters) {
  const query = new URLSearchParams(parameters || {});
  if (datacenter.value) query.set("dc", datacenter.value);
  const headers = token.value ? { "X-Consul-Token": token.value } : {};
  const answer = await fetch(path + "?" + query, { headers, credentials: "same-origin" });
  if (answer.status === 404) return null;
  if (!answer.ok) throw new Error(answer.status + ": " + (await answer.text()).slice(0, 1000));
  return answer.json();
}

function table(headings, rows) {
  const made = element("table");
  const head = made.createTHead().insertRow();
  for (const heading of headings) head.append(element("th", heading));
  const body = made.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const cell of row) line.insertCell().append(cell);
  }
  return rows.length ? made : element("p", "Nothing here.");
}

function status(name) {
  const known = ["passing", "warning", "critical"].includes(name) ? name : "";
  return element("span", name, known);
}

function worst(checks) {
  const names = (checks || []).map((check) => check.Status);
  return names.includes("critical") ? "critical" : names.includes("warning") ? "warning" : "passing";
}

function checkTable(checks) {
  return table(["Check", "Status", "Service", "Output"], (checks || []).map((check) => [
    element("span", check.Name || check.CheckID), status(check.Status), element("span", check.ServiceName),
    element("pre", check.Output),
  ]));
}

async function services() {
  const found = (await get("/v1/internal/ui/services")) || [];
  return [element("h2", "Services"), table(["Service", "Instances", "Passing", "Warning", "Critical", "Tags"],
    found.map((each) => [
      link(each.Name, "services", each.Name), element("span", each.InstanceCount),
      element("span", each.ChecksPassing), element("span", each.ChecksWarning), element("span", each.ChecksCritical),
      element("span", (each.Tags || []).join(", ")),
    ]))];
}

async function service(name) {
  const found = (await get("/v1/health/service/" + encodeURIComponent(name))) || [];
  const parts = [element("h2", name)];
  for (const each of found) {
    const address = (each.Service.Address || each.Node.Address) + ":" + each.Service.Port;
    const title = element("h3");
    title.append(link(each.Node.Node, "nodes", each.Node.Node), " " + each.Service.ID + " " + address + " ",
      status(worst(each.Checks)));
    parts.push(title, checkTable(each.Checks));
  }
  return found.length ? parts : [...parts, element("p", "No such service.")];
}

async function nodes() {
  const found = (await get("/v1/internal/ui/nodes")) || [];
  return [element("h2", "Nodes"), table(["Node", "Address", "Status", "Services"], found.map((each) => [
    link(each.Node, "nodes", each.Node), element("span", each.Address), status(worst(each.Checks)),
    element("span", (each.Services || []).length),
  ]))];
}

async function node(name) {
  const found = await get("/v1/internal/ui/node/" + encodeURIComponent(name));
  if (!found) return [element("h2", name), element("p", "No such node.")];
  return [element("h2", name), element("p", found.Address), element("h3", "Services"),
    table(["ID", "Service", "Port", "Tags"], (found.Services || []).map((each) => [
      element("span", each.ID), link(each.Service, "services", each.Service), element("span", each.Port),
      element("span", (each.Tags || []).join(", ")),
    ])), element("h3", "Checks"), checkTable(found.Checks)];
}

function keyPath(key) {
  return "/v1/kv/" + key.split("/").map(encodeURIComponent).join("/");
}

async function keys(prefix) {
  const found = (await get(keyPath(prefix), { keys: "", separator: "/" })) || [];
  const up = prefix.replace(/[^/]*\/$/, "");
  const rows = found.filter((key) => key !== prefix).map((key) => [link(key.slice(prefix.length), "kv", key)]);
  const parts = [element("h2", "Key/Value " + prefix)];
  if (prefix) parts.push(link("up", "kv", up));
  return [...parts, table(["Key"], rows)];
}

function text(value) {
  const bytes = Uint8Array.from(atob(value || ""), (character) => character.charCodeAt(0));
  return new TextDecoder().decode(bytes);
}

async function key(name) {
  const found = await get(keyPath(name));
  const up = link("up", "kv", name.replace(/[^/]*$/, ""));
  if (!found || !found.length) return [element("h2", name), up, element("p", "No such key.")];
  const entry = found[0];
  const about = "flags " + entry.Flags + ", changed at index " + entry.ModifyIndex +
    (entry.Session ? ", locked by session " + entry.Session : "");
  return [element("h2", name), up, element("p", about), element("pre", text(entry.Value).slice(0, VALUE_CHARACTERS_MAX))];
}

function page() {
  const [kind, name] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (kind === "nodes") return name ? node(name) : nodes();
  if (kind === "kv") return name && !name.endsWith("/") ? key(name) : keys(name || "");
  return name ? service(name) : services();
}

async function show() {
  const mine = ++turn;
  let parts;
  try {
    parts = await page();
  } catch (error) {
    parts = [element("p", error.message, "error")];
  }
  if (mine === turn) view.replaceChildren(...parts);
}

async function start() {
  try {
    for (const name of (await get("/v1/catalog/datacenters")) || []) {
      const option = element("option", name);
      option.value = name;
      datacenter.append(option);
    }
  } catch (error) {
    view.replaceChildren(element("p", error.message, "error"));
  }
  await show();
}

window.addEventListener("hashchange", show);
datacenter.addEventListener("change", show);
token.addEventListener("change", show);
start();

// The conformance program in Node: what libuv and the resolver make of libc's calls. Lines "what: result".
"use strict";
const { execFile, spawn, execFileSync } = require("node:child_process");
const dgram = require("node:dgram");
const dns = require("node:dns");
const fs = require("node:fs");
const http = require("node:http");
const net = require("node:net");
const os = require("node:os");
const path = require("node:path");

const C = process.env.CONFORM_C, STATIC = process.env.CONFORM_STATIC;
const patience = 20000; // ms, for what does answer
const say = (what, result) => console.log(`${what}: ${typeof result === "string" ? result : JSON.stringify(result)}`);
const attempt = async (what, call) => {
  try {
    say(what, await call());
  } catch (e) {
    say(what, `${e.code || e}`);
  }
};

function environment() {
  for (const name of ["GREETING", "TWO_WORDS", "EMPTY", "ABSENT", "HTTP_PROXY"]) say(name, `${process.env[name]}`);
  say("hostname", os.hostname());
}

async function names() {
  for (const name of ["server", "server.shop.svc.cluster.local", "external.example", "absent.example", "localhost"])
    await attempt(`lookup ${name}`, async () => (await dns.promises.lookup(name, { all: true })).map((a) => a.address).sort());
  await attempt("resolve4", () => dns.promises.resolve4("external.example"));
}

const dial = (port, host, ms = patience) =>
  new Promise((resolve, reject) => {
    const c = net.connect({ port, host });
    const late = setTimeout(() => (c.destroy(), resolve("no answer")), ms);
    c.on("error", (e) => (clearTimeout(late), reject(e)));
    c.once("data", (first) => {
      clearTimeout(late);
      const own = [c.localAddress, c.remoteAddress, c.remoteFamily];
      c.write("echo");
      c.once("data", (echo) => (c.end(), resolve([`${first}`.trim(), `${echo}`, own])));
    });
  });

async function out() {
  await attempt("server by name", () => dial(7000, "server"));
  await attempt("server, v6", () => dial(7000, "2001:db8:7::7"));
  await attempt("refused", () => dial(7001, "203.0.113.7"));
  await attempt("unreachable", () => dial(80, "192.0.2.193"));
  await attempt("silent", () => dial(80, "192.0.2.1", 1500));
  await attempt("fetch", async () => (await (await fetch("http://server:8000/where")).text()).trim());
  await attempt("udp", () => new Promise((resolve, reject) => {
    const u = dgram.createSocket("udp4");
    u.on("error", reject);
    u.on("message", (m, from) => (u.close(), resolve([`${m}`, from.address, from.port])));
    u.send("one", 7002, "203.0.113.7");
  }));
}

const listen = () =>
  new Promise((resolve) => {
    const server = http.createServer((request, response) => {
      say("peer", [request.socket.remoteAddress, request.socket.address(), request.url]);
      response.end("answer", () => (server.closeAllConnections(), server.close(resolve)));
    });
    server.listen(8090, () => {
      say("own", server.address());
      say("listen", "http ready 8090");
    });
  });

async function files() {
  for (const name of ["/data", "/data/plain", "/data/sub/deep/file", "/data/link", "/data/dangling", "/data/absent", "/config/greeting"]) {
    await attempt(`stat ${name}`, () => {
      const s = fs.statSync(name);
      return [s.isFile(), s.isDirectory(), s.isFile() ? s.size : 0];
    });
    await attempt(`lstat ${name}`, async () => (await fs.promises.lstat(name)).isSymbolicLink());
    await attempt(`exists ${name}`, () => fs.existsSync(name));
  }
  await attempt("readdir", () => fs.readdirSync("/data").sort());
  await attempt("readdir with types", async () =>
    (await fs.promises.readdir("/data", { withFileTypes: true })).map((e) => [e.name, e.isDirectory(), e.isSymbolicLink()]).sort());
  await attempt("realpath", () => fs.realpathSync("/data/sub/../link"));
  await attempt("realpath native", () => fs.realpathSync.native("/data/sub/../link"));
  await attempt("readlink", () => fs.readlinkSync("/data/link"));
  await attempt("read", () => fs.readFileSync("/config/greeting", "utf8"));
  await attempt("read by promise", () => fs.promises.readFile("/data/plain", "utf8"));
  await attempt("require", () => require("/data/json"));
  await attempt("write", () => fs.writeFileSync("/data/new", "x"));
  await attempt("rename", () => fs.renameSync("/data/plain", "/data/other"));
  await attempt("unlink", () => fs.promises.unlink("/data/plain"));
  await attempt("mkdir", () => fs.mkdirSync("/data/new"));
  await attempt("access", () => `${fs.accessSync("/data/plain", fs.constants.R_OK)}`);
  await attempt("access to write", () => fs.accessSync("/data/plain", fs.constants.W_OK));
  await attempt("copy", () => (fs.copyFileSync("/data/plain", path.join(os.tmpdir(), "conform-copy")), fs.unlinkSync(path.join(os.tmpdir(), "conform-copy")), "ok"));
  const here = process.cwd();
  process.chdir("/data/sub");
  say("cwd", process.cwd());
  await attempt("relative", () => fs.readFileSync("deep/file", "utf8"));
  process.chdir(here);
}

async function processes() {
  const run = (file, args, options) => new Promise((resolve) => execFile(file, args, options, (e, stdout) => resolve([e ? e.code : 0, stdout.trim()])));
  await attempt("execFile", () => run(C, ["child", "execFile"]));
  await attempt("execFile, no environment", () => run(C, ["child", "empty"], { env: {} }));
  await attempt("execFile, elsewhere", () => run(C, ["child", "elsewhere"], { cwd: "/data" }));
  await attempt("shell", () => run(`${C} child shell`, [], { shell: true }));
  if (STATIC) await attempt("static", () => run(STATIC, ["child"], { env: {} }));
  await attempt("absent", () => run("/absent/program", []));
  await attempt("execFileSync", () => `${execFileSync(process.execPath, ["-p", "os.hostname()"], { env: {} })}`.trim());
  await attempt("spawn", () => new Promise((resolve) => spawn(C, ["child", "spawn"], { stdio: "inherit" }).on("exit", resolve)));
}

(async () => {
  for (const subject of [environment, names, out, listen, files, processes])
    if (process.argv.length === 2 || process.argv.includes(subject.name)) await subject();
})();

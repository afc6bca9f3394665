// The debuggee of TestF5Node: a service that looks at the pod and says what it has seen.
'use strict';
const fs = require('fs');
const http = require('http');
const os = require('os');

const wanted = JSON.parse(process.argv[2]);

function fetched(url) {
  return new Promise((resolve) => {
    http
      .get(url, { agent: false, timeout: 20000 }, (response) => {
        let text = '';
        response.on('data', (d) => (text += d)).on('end', () => resolve(text));
      })
      .on('error', (err) => resolve('error: ' + err.message));
  });
}

// look is all that wanted names, as base64 of JSON: what a debugger shows of that needs no quotes.
async function look() {
  const seen = { Host: os.hostname(), Env: {}, Files: {}, Fetched: {} };
  for (const name of wanted.Env) seen.Env[name] = process.env[name] ?? '';
  for (const path of wanted.Files) seen.Files[path] = fs.readFileSync(path, 'utf8').trimEnd();
  for (const url of wanted.URLs) seen.Fetched[url] = await fetched(url);
  return Buffer.from(JSON.stringify(seen)).toString('base64');
}

http
  .createServer(async (request, response) => {
    const path = request.url;
    const caller = `${request.socket.remoteAddress}:${request.socket.remotePort}`;
    const said = path === '/look' ? await look() : '';
    const answer = { Who: 'debuggee', Host: os.hostname(), Pid: process.pid, Path: path }; // a breakpoint's line
    response.end(JSON.stringify({ ...answer, Caller: caller, Said: said.length }));
  })
  .listen(8080, '0.0.0.0');

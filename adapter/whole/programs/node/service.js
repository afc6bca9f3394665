// The debuggee of TestNode: a service that says what it sees of the pod.
'use strict';
const { execFile } = require('child_process');
const fs = require('fs');
const http = require('http');
const net = require('net');
const os = require('os');
const { join } = require('path');

// call resolves to what the server at an address says of its caller.
function call(address) {
  const [host, port] = address.split(':');
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = net.connect({ host, port: Number(port) });
    socket.on('data', (d) => (text += d)).on('end', () => resolve(text.trim())).on('error', reject);
  });
}

function child(path) {
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [join(__dirname, 'child.js'), path], (err, out) => (err ? reject(err) : resolve(out)));
  });
}

const server = http.createServer(async (request, response) => {
  const path = request.url;
  const answer = { // the breakpoint of the tests
    Who: process.env.WHO,
    Hostname: os.hostname(),
    Client: `${request.socket.remoteAddress}:`,
    Path: path,
    Unset: process.env.UNSET ?? null,
    Secret: process.env.SECRET,
  };
  try {
    answer.File = fs.readFileSync('/etc/config/small', 'utf8');
    if (path.startsWith('/call/')) answer.Caller = await call(path.slice('/call/'.length));
    if (path.startsWith('/child')) answer.Child = await child(path);
  } catch (err) {
    answer.Error = String(err);
  }
  response.end(JSON.stringify(answer));
});
server.listen(8080, '0.0.0.0', () => console.log("listening on", server.address()));

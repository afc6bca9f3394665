// What main.go does, in JavaScript.
'use strict';
const fs = require('fs');
const http = require('http');
const os = require('os');

http
  .createServer((request, response) => {
    const caller = `${request.socket.remoteAddress}:${request.socket.remotePort}`;
    const given = process.env.GIVEN;
    const variable = process.env[process.argv[2]];
    const file = fs.readFileSync(process.argv[3], 'utf8').trim();
    const host = os.hostname();
    response.end(`Order on your desk: ${host}, ${variable}, ${file}, ${given}, to ${caller}\n`); // a breakpoint's line
  })
  .listen(8080, '0.0.0.0');

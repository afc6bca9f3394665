// A child process of the debuggee of TestNode.
'use strict';
const answer = process.argv[2] + ' on ' + require('os').hostname();
process.stdout.write(answer); // the child's breakpoint

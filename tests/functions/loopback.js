// Loaded before the framework, whose server would listen on every address of the machine: keeps it to loopback, on a free port,
// and says which.
'use strict';

const { Server } = require('node:net');

const listen = Server.prototype.listen;
Server.prototype.listen = function (port, listening) {
  return listen.call(this, 0, '127.0.0.1', () => {
    listening();
    console.log(`listening on ${this.address().port}`);
  });
};

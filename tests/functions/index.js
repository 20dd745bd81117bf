// The functions behind the gateway in tests/it/framework.rs. The framework serves the one export that it is told to.
'use strict';

const { EventEmitter } = require('node:events');

// Greets whom the query names, whatever else it is asked.
exports.greet = (req, res) => res.send(`Hello, ${req.query.u || 'World'}!`);

// Does what the path says, and otherwise tells what it was asked.
exports.probe = (req, res) => (behaviours[req.path] ?? tell)(req, res);

// Takes events, but not those of one type.
exports.consume = event => {
  if (event.type === 'bad') throw new Error('a bad event');
};

const behaviours = {
  '/throw': () => {
    throw new Error('thrown on purpose');
  },
  '/reject': async () => {
    throw new Error('rejected on purpose');
  },
  '/tagged': (req, res) => res.set('ETag', '"one"').send('tagged'),
  '/body': (req, res) => res.send(req.rawBody),
  '/events': (req, res) => {
    let sent = 0;
    const send = () => {
      res.write(`data: ${sent}\n\n`);
      sent += 1;
      if (sent === 3) {
        steps.off('step', send);
        res.end();
      }
    };
    res.set('Content-Type', 'text/event-stream');
    steps.on('step', send);
    send();
  },
  '/step': (req, res) => {
    steps.emit('step');
    res.sendStatus(204);
  },
  '/hold': () => console.log('holding'),
};

const tell = (req, res) =>
  res.json({ target: req.originalUrl, ip: req.ip, host: req.hostname, protocol: req.protocol });

const steps = new EventEmitter();

// hono's answer; FD is the number of a socket to listen on, where it is set.
import { createRequire } from 'node:module';
const require = createRequire(process.env.NODE_PATH + '/x.js');
const { createAdaptorServer } = require('@hono/node-server');
const { Hono } = require('hono');
const app = new Hono();
app.get('/', (c) => c.text('hello\n'));
createAdaptorServer({ fetch: app.fetch }).listen(process.env.FD ? { fd: Number(process.env.FD) } : { port: @PORT@, host: '127.0.0.1' });

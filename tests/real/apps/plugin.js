module.exports = async (app, options) => { app.get('/', async () => 'hello\n'); };

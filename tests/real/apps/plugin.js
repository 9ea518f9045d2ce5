module.exports = async (app) => { app.get('/', async () => 'hello\n'); };

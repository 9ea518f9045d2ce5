Bun.serve({ port: @PORT@, hostname: process.env.AT === undefined ? "127.0.0.1" : undefined, fetch: () => new Response("hello\n") });

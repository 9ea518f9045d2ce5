Bun.serve({ port: @PORT@, hostname: "127.0.0.1", fetch: () => new Response("hello\n") });

# webrick on an inherited socket: ruby webrick.rb FD
require 'webrick'
server = WEBrick::HTTPServer.new(DoNotListen: true, DocumentRoot: '.')
server.listeners << TCPServer.for_fd(Integer(ARGV[0]))
trap('TERM') { server.shutdown }
server.start

package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func serve(l net.Listener) {
	server := &http.Server{}
	if os.Getenv("SHUTDOWN") == "" {
		panic(server.Serve(l))
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go server.Serve(l)
	<-term
	server.Shutdown(context.Background())
}

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("hello\n")) })
	var l net.Listener
	var err error
	if os.Getenv("PASSED") != "" {
		l, err = net.FileListener(os.NewFile(3, "web"))
	} else {
		at, isSet := os.LookupEnv("AT")
		if !isSet {
			at = "127.0.0.1"
		}
		l, err = net.Listen("tcp", at+":@PORT@")
	}
	if err != nil {
		panic(err)
	}
	serve(l)
}

package main

import (
	"net"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("hello\n")) })
	if os.Getenv("PASSED") != "" {
		l, err := net.FileListener(os.NewFile(3, "web"))
		if err != nil {
			panic(err)
		}
		panic(http.Serve(l, nil))
	}
	panic(http.ListenAndServe("127.0.0.1:@PORT@", nil))
}

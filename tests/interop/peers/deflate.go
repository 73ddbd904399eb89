// Echo servers and clients of two Go libraries, with permessage-deflate as each negotiates it.
//
//	deflate server gorilla|nhooyr         prints its port, and echoes until its input ends
//	deflate client gorilla|nhooyr URL     sends messages, and prints "same" if each comes back
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	gorilla "github.com/gorilla/websocket"
	nhooyr "nhooyr.io/websocket"
)

var upgrader = gorilla.Upgrader{EnableCompression: true}

func echo(library string, w http.ResponseWriter, r *http.Request) {
	if library == "gorilla" {
		c, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for err == nil {
			var kind int
			var data []byte
			if kind, data, err = c.ReadMessage(); err == nil {
				err = c.WriteMessage(kind, data)
			}
		}
		return
	}
	c, err := nhooyr.Accept(w, r, &nhooyr.AcceptOptions{CompressionMode: nhooyr.CompressionContextTakeover})
	if err != nil {
		return
	}
	c.SetReadLimit(1 << 20)
	for err == nil {
		var kind nhooyr.MessageType
		var data []byte
		if kind, data, err = c.Read(r.Context()); err == nil {
			err = c.Write(r.Context(), kind, data)
		}
	}
}

func serve(library string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { echo(library, w, r) }))
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	io.Copy(io.Discard, os.Stdin)
}

// The second message repeats the first, from farther back than a small window reaches.
func messages() [][]byte {
	far := make([]byte, 20000)
	for i := range far {
		far[i] = byte(i*i>>3) ^ byte(i>>8)
	}
	return [][]byte{far, far, []byte("short"), bytes.Repeat([]byte("ab"), 30000), {}}
}

func call(library, url string) {
	ctx := context.Background()
	var turn func([]byte) ([]byte, error)
	if library == "gorilla" {
		dialer := gorilla.Dialer{EnableCompression: true}
		c, _, err := dialer.Dial(url, nil)
		if err != nil {
			log.Fatal(err)
		}
		turn = func(data []byte) ([]byte, error) {
			if err := c.WriteMessage(gorilla.BinaryMessage, data); err != nil {
				return nil, err
			}
			_, got, err := c.ReadMessage()
			return got, err
		}
	} else {
		c, _, err := nhooyr.Dial(ctx, url, &nhooyr.DialOptions{CompressionMode: nhooyr.CompressionContextTakeover})
		if err != nil {
			log.Fatal(err)
		}
		c.SetReadLimit(1 << 20)
		turn = func(data []byte) ([]byte, error) {
			if err := c.Write(ctx, nhooyr.MessageBinary, data); err != nil {
				return nil, err
			}
			_, got, err := c.Read(ctx)
			return got, err
		}
	}
	for _, data := range messages() {
		got, err := turn(data)
		if err != nil || !bytes.Equal(got, data) {
			log.Fatal("not the same: ", err)
		}
	}
	fmt.Println("same")
}

func main() {
	if os.Args[1] == "server" {
		serve(os.Args[2])
	} else {
		call(os.Args[2], os.Args[3])
	}
}

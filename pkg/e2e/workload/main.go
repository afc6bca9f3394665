// Command workload is what the test cluster's pods run: one static program of the standard library alone, in images
// FROM scratch and in such with a shell. It serves, asks, or does nothing, by its first argument. It must never know of
// stepin: it stands for a user's program, in the pod and (built by a test) under the debugger.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const usage = `usage: workload MODE
  serve [FLAG...]     HTTP, TCP and gRPC health, see serve -h
  get URL...          print each answer's status and body
  load [FLAG...] URL  ask at a pace, print what was lost, see load -h
  lookup NAME         print its addresses
  cat FILE            print it
  copy                standard input to standard output
  pause               wait for SIGTERM, and collect orphans meanwhile
`

func main() {
	log.SetFlags(0)
	log.SetPrefix("workload: ")
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1], os.Args[2:])
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, mode string, args []string) error {
	switch mode {
	case "serve":
		return serve(ctx, args)
	case "get":
		return get(ctx, args)
	case "load":
		return load(ctx, args)
	case "lookup":
		return lookup(ctx, args)
	case "cat":
		return cat(args)
	case "copy":
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	case "pause":
		return pause(ctx)
	}
	return errors.New("no mode " + mode)
}

// patience bounds one request.
const patience = 10 * time.Second

func get(ctx context.Context, urls []string) error {
	client := &http.Client{Timeout: patience}
	for _, url := range urls {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		fmt.Printf("%d %s\n", response.StatusCode, strings.TrimSuffix(string(body), "\n"))
	}
	return nil
}

func lookup(ctx context.Context, names []string) error {
	for _, name := range names {
		addrs, err := net.DefaultResolver.LookupHost(ctx, name)
		if err != nil {
			return err
		}
		fmt.Println(strings.Join(addrs, " "))
	}
	return nil
}

func cat(files []string) error {
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if _, err := os.Stdout.Write(text); err != nil {
			return err
		}
	}
	return nil
}

// pause is PID 1 of a pod that shares its process namespace, hence the orphans.
func pause(ctx context.Context) error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-children:
			for {
				if pid, _ := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 {
					break
				}
			}
		}
	}
}

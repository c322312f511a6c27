// Command etcd_load loads an etcd cluster through etcd's own client module, in the shape it is told; versus_etcd.py runs it.
//
// It speaks the protocol of tests/benchmarks/load_process.py, as kv_load.py does for our side:
//
//	stdout "ready" (connected) ──► stdin a line ──► warm-up ──► stdout "begin" ──► measured phase ──► stdout "end" ──► one line of JSON
//	──► waits for the end of stdin, so that its CPU time can still be read
//
// A closed loop: each of -in-flight workers issues its next operation when the last was answered; workers are dealt
// round-robin over -connections clients, each with connections of its own (clientv3.New per client).
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	dialTimeout      = 30 * time.Second
	operationTimeout = 10 * time.Second
	digits           = 12
	connectingMax    = 32 // clients that connect at once: a thousand handshakes together would time each other out
)

type plan struct {
	endpoints   []string
	operation   string
	connections int
	inFlight    int
	keySize     int
	keys        int64
	prefix      string
	value       string
	warmup      time.Duration
	duration    time.Duration
}

type result struct {
	Operations  int64           `json:"operations"`
	ElapsedS    float64         `json:"elapsed_s"`
	Errors      int64           `json:"errors"`
	NotFound    int64           `json:"not_found"`
	FirstError  string          `json:"first_error"`
	LatenciesUs map[int64]int64 `json:"latencies_us"`
}

func main() {
	p, limit := parse()
	time.AfterFunc(limit, func() { fail(fmt.Errorf("longer than its -limit of %s", limit)) })
	clients, err := connect(p)
	if err != nil {
		fail(err)
	}
	defer closeAll(clients)
	say("ready")
	stdin := bufio.NewReader(os.Stdin)
	if _, err := stdin.ReadString('\n'); err != nil {
		fail(err)
	}
	defer io.Copy(io.Discard, stdin)
	var next atomic.Int64
	if p.operation == "fill" {
		finish(run(p, clients, &next, 0))
		return
	}
	if p.warmup > 0 {
		run(p, clients, &next, p.warmup)
	}
	say("begin")
	measured := run(p, clients, &next, p.duration)
	say("end")
	finish(measured)
}

func parse() (plan, time.Duration) {
	p := plan{}
	endpoints := flag.String("endpoints", "", "HOST:PORT,... of the cluster")
	valueSize := flag.Int("value-size", 1024, "bytes")
	seed := flag.Int64("seed", 1, "of the value and of the keys that are read")
	limit := flag.Duration("limit", 10*time.Minute, "end with an error after this long, whatever happens")
	flag.StringVar(&p.operation, "operation", "put", "put (a fresh key each), get (linearizable, one of -keys), fill (put -keys once)")
	flag.IntVar(&p.connections, "connections", 1, "clients, each with connections of its own")
	flag.IntVar(&p.inFlight, "in-flight", 64, "operations in flight in this process")
	flag.IntVar(&p.keySize, "key-size", 276, "bytes")
	flag.Int64Var(&p.keys, "keys", 10000, "keys that get reads and fill writes")
	flag.StringVar(&p.prefix, "prefix", "load", "of every key; different in every process that puts")
	flag.DurationVar(&p.warmup, "warmup", time.Second, "before measuring")
	flag.DurationVar(&p.duration, "duration", 5*time.Second, "of the measured phase")
	flag.Parse()
	rand.Seed(*seed)
	value := make([]byte, *valueSize)
	rand.Read(value)
	p.value, p.endpoints = string(value), strings.Split(*endpoints, ",")
	return p, *limit
}

func connect(p plan) ([]*clientv3.Client, error) {
	clients, failures := make([]*clientv3.Client, p.connections), make([]error, p.connections)
	turns := make(chan struct{}, connectingMax)
	var done sync.WaitGroup
	for i := range clients {
		done.Add(1)
		go func(i int) {
			defer done.Done()
			turns <- struct{}{}
			defer func() { <-turns }()
			clients[i], failures[i] = connectOne(p)
		}(i)
	}
	done.Wait()
	for _, err := range failures {
		if err != nil {
			return nil, err
		}
	}
	return clients, nil
}

// connectOne returns a client that has been answered once, so that no handshake is measured.
func connectOne(p plan) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: p.endpoints, DialTimeout: dialTimeout})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	for range p.endpoints { // the client takes its endpoints in turn
		if _, err := client.Get(ctx, "nothing"); err != nil {
			return nil, err
		}
	}
	return client, nil
}

func closeAll(clients []*clientv3.Client) {
	for _, client := range clients {
		client.Close()
	}
}

// run is one phase: until duration is over, or, with duration 0, until all keys were put once.
func run(p plan, clients []*clientv3.Client, next *atomic.Int64, duration time.Duration) result {
	parts := make([]result, p.inFlight)
	start := time.Now()
	var done sync.WaitGroup
	for i := range parts {
		done.Add(1)
		go func(i int) {
			defer done.Done()
			parts[i] = worker(p, clients[i%len(clients)], next, start, duration)
		}(i)
	}
	done.Wait()
	return merge(parts, time.Since(start))
}

func worker(p plan, client *clientv3.Client, next *atomic.Int64, start time.Time, duration time.Duration) result {
	r := result{LatenciesUs: map[int64]int64{}}
	for begun := time.Now(); duration == 0 || begun.Sub(start) < duration; begun = time.Now() {
		var index int64
		if p.operation == "get" {
			index = rand.Int63n(p.keys)
		} else if index = next.Add(1) - 1; duration == 0 && index >= p.keys {
			break
		}
		found, err := operate(p, client, key(p, index))
		if err != nil {
			r.Errors++
			r.FirstError = err.Error()
			continue
		}
		if !found {
			r.NotFound++
		}
		r.Operations++
		r.LatenciesUs[rounded(time.Since(begun).Microseconds())]++
	}
	return r
}

func operate(p plan, client *clientv3.Client, key string) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), operationTimeout)
	defer cancel()
	if p.operation == "get" {
		response, err := client.Get(ctx, key) // linearizable unless asked otherwise
		return err == nil && len(response.Kvs) == 1 && len(response.Kvs[0].Value) == len(p.value), err
	}
	_, err := client.Put(ctx, key, p.value)
	return true, err
}

// key is the prefix, filled up with dots to the key size, and twelve digits; the same as kv_load.py's.
func key(p plan, index int64) string {
	return p.prefix + strings.Repeat(".", max(0, p.keySize-digits-len(p.prefix))) + fmt.Sprintf("%0*d", digits, index)
}

// rounded keeps three significant digits, so that a million latencies are some thousand numbers.
func rounded(us int64) int64 {
	unit := int64(1)
	for us/unit >= 1000 {
		unit *= 10
	}
	return us / unit * unit
}

func merge(parts []result, elapsed time.Duration) result {
	all := result{ElapsedS: elapsed.Seconds(), LatenciesUs: map[int64]int64{}}
	for _, part := range parts {
		all.Operations += part.Operations
		all.Errors += part.Errors
		all.NotFound += part.NotFound
		if part.FirstError != "" {
			all.FirstError = part.FirstError
		}
		for us, count := range part.LatenciesUs {
			all.LatenciesUs[us] += count
		}
	}
	return all
}

func say(word string) { fmt.Println(word) }

func finish(measured result) {
	line, err := json.Marshal(measured)
	if err != nil {
		fail(err)
	}
	fmt.Println(string(line))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "etcd_load:", err)
	os.Exit(1)
}

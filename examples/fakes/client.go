// Drives a fake compute through its states, with Go's standard library alone.
//
//	COMPUTE_CTL=bin/compute_ctl go run examples/fakes/client.go
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const deadline = 30 * time.Second

// What the fake prints, once it listens.
type address struct {
	URL   string `json:"url"`
	Token string `json:"token"`
}

var compute address

var client = &http.Client{Timeout: deadline}

// The status code and the JSON of the answer; empty when it is no JSON.
func ask(method, path string, body any) (int, map[string]any) {
	text, err := json.Marshal(body)
	if err != nil {
		log.Fatal(err)
	}
	request, err := http.NewRequest(method, compute.URL+path, bytes.NewReader(text))
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("authorization", "Bearer "+compute.Token)
	request.Header.Set("content-type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	decoded := map[string]any{}
	_ = json.NewDecoder(answer.Body).Decode(&decoded)
	return answer.StatusCode, decoded
}

func expect(what string, found, wanted any) {
	if found != wanted {
		log.Fatalf("%s: expected %v, found %v", what, wanted, found)
	}
	fmt.Printf("%s: %v\n", what, found)
}

func waitFor(status string) map[string]any {
	for until := time.Now().Add(deadline); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if code, answer := ask("GET", "/status", nil); code == 200 && answer["status"] == status {
			return answer
		}
	}
	log.Fatalf("the compute did not become %s within %s", status, deadline)
	return nil
}

func main() {
	program, script := os.Getenv("COMPUTE_CTL"), os.Getenv("SCRIPT")
	if program == "" {
		program = "compute_ctl"
	}
	if script == "" {
		script = filepath.Join("examples", "fakes", "compute.json")
	}
	fake := exec.Command(program, "fake", "compute", "--script", script, "--until-stdin-closes")
	// A pipe of ours: when we are gone, however that comes about, it ends, too.
	stdin, err := fake.StdinPipe()
	if err != nil {
		log.Fatal(err)
	}
	stdout, err := fake.StdoutPipe()
	if err != nil {
		log.Fatal(err)
	}
	if err := fake.Start(); err != nil {
		log.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		log.Fatal(err)
	}
	if err := json.Unmarshal(line, &compute); err != nil {
		log.Fatal(err)
	}

	cluster := map[string]any{"roles": []any{map[string]any{"name": "web"}}, "databases": []any{}}
	spec := map[string]any{"spec": map[string]any{"format_version": 1, "cluster": cluster}}
	status := func(method, path string, body any) int { code, _ := ask(method, path, body); return code }

	// The script's two 503 come first, as of a node that is not reachable yet.
	expect("the first answer", status("GET", "/status", nil), 503)
	expect("the second answer", status("GET", "/status", nil), 503)
	expect("without a spec", waitFor("empty")["status"], "empty")
	expect("the first spec", status("POST", "/configure", spec), 200)
	expect("and so", waitFor("running")["error"], nil)
	code, refused := ask("POST", "/configure", spec)
	expect("the second spec", code, 500)
	expect("because of", refused["code"], "apply_failed")
	waitFor("failed")
	expect("the third spec", status("POST", "/configure", spec), 200)
	expect("and so", waitFor("running")["error"], nil)
	_, ended := ask("POST", "/terminate", nil)
	expect("the end", ended["lsn"], "0/16B9188")
	waitFor("terminated")

	stdin.Close()
	if err := fake.Wait(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("it has ended, with exit code 0")
}

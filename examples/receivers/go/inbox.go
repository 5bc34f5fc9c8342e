// Receives webhooks: verifies, does the work of each event once, and lets no older event undo a newer one.
//
//	WEBHOOK_SECRETS=whsec_…[,whsec_…] go run inbox.go [port]
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const tolerance = 300 * time.Second // How old a POST may be: then a recorded one is worthless.

type event struct {
	Type      string    `json:"event"`
	Timestamp time.Time `json:"timestamp"`
	Data      struct {
		DocumentID string `json:"documentId"`
		Status     string `json:"status"`
	} `json:"data"`
}

type inbox struct {
	keys [][]byte // Several while a secret is changed: one that fits is enough.
	// In production: two tables, written in one transaction, so that work and memory of it are there together or not
	// at all.
	lock    sync.Mutex
	seen    map[string]time.Time
	changed map[string]time.Time
}

// Whether the POST is the sender's, and of now. The signature covers the bytes as received.
func (in *inbox) verified(header http.Header, body []byte) bool {
	id, sent := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(sent, 10, 64)
	if id == "" || err != nil || time.Since(time.Unix(seconds, 0)).Abs() > tolerance {
		return false
	}
	for _, entry := range strings.Fields(header.Get("webhook-signature")) {
		given, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(entry, "v1,"))
		if err != nil || !strings.HasPrefix(entry, "v1,") {
			continue // Of another scheme.
		}
		for _, key := range in.keys {
			mac := hmac.New(sha256.New, key)
			fmt.Fprintf(mac, "%s.%s.", id, sent)
			mac.Write(body)
			if hmac.Equal(given, mac.Sum(nil)) {
				return true
			}
		}
	}
	return false
}

// Does the event's work, unless it was done.
func (in *inbox) take(id string, e event) string {
	in.lock.Lock()
	defer in.lock.Unlock()
	if _, done := in.seen[id]; done {
		return "repeat"
	}
	in.seen[id] = time.Now() // Forget them after 30 days: the sender's retention.
	// An event that happened before what is known already comes too late: attempts may overtake each other.
	if !e.Timestamp.After(in.changed[e.Data.DocumentID]) {
		return "stale"
	}
	in.changed[e.Data.DocumentID] = e.Timestamp
	return "applied"
}

func (in *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || !in.verified(r.Header, body) {
		fmt.Println("refused")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	id := r.Header.Get("webhook-id")
	if e.Type == "postrider.test" { // The sender tests the way here: there is nothing to do.
		fmt.Printf("test: %s\n", id)
	} else {
		fmt.Printf("%s: %s\n", in.take(id, e), id)
	}
	w.WriteHeader(http.StatusNoContent)
}

func main() {
	in := &inbox{seen: map[string]time.Time{}, changed: map[string]time.Time{}}
	for _, secret := range strings.Split(os.Getenv("WEBHOOK_SECRETS"), ",") {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil {
			log.Fatal("a secret is not whsec_ and base64")
		}
		in.keys = append(in.keys, key)
	}
	port := "7072"
	if len(os.Args) > 1 {
		port = os.Args[1]
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, in))
}

package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
)

// Claims are a service account's, as the API server reads them in a token that it has signed itself.
type Claims struct {
	Issuer, Audience   string
	Namespace, Account string
	UID                string // the account's; a token for another is refused
	Life               time.Duration
}

// leeway is by how much longer than it says a token is taken (go-jose's DefaultLeeway), for clocks that differ. A token
// is dated back by it, so that it lives as long as it is to.
const leeway = time.Minute

// Token signs claims by RFC 7519 and RFC 7518, 3.4 (ES256). The API's own TokenRequest gives none that lives shorter
// than ten minutes, and a test cannot wait for those to expire. A token that the server has just seen is believed for up
// to ten seconds more (tokenSuccessCacheTTL).
func Token(key *ecdsa.PrivateKey, c Claims) (string, error) {
	type object = map[string]any
	begin := time.Now().Add(-leeway)
	head, err := segment(object{"alg": "ES256", "typ": "JWT"})
	if err != nil {
		return "", err
	}
	body, err := segment(object{
		"iss": c.Issuer, "aud": []string{c.Audience}, "sub": "system:serviceaccount:" + c.Namespace + ":" + c.Account,
		"iat": begin.Unix(), "nbf": begin.Unix(), "exp": begin.Add(c.Life).Unix(),
		"kubernetes.io": object{"namespace": c.Namespace, "serviceaccount": object{"name": c.Account, "uid": c.UID}},
	})
	if err != nil {
		return "", err
	}
	text := head + "." + body
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return "", fmt.Errorf("pki: signing a token: %w", err)
	}
	signature := make([]byte, 64) // two numbers of P-256's 32 bytes
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

func segment(v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("pki: writing a token: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(text), nil
}

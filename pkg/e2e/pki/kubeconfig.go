package pki

import (
	"encoding/json"
	"fmt"
)

// Access is what a kubeconfig is for: one cluster, one user, who is known by a certificate or else by a token.
type Access struct {
	Server    string // https://ADDRESS:PORT
	CA        []byte // PEM
	Client    *Pair
	Token     string
	Namespace string // "" is Kubernetes' own default
}

// Kubeconfig writes it down. JSON is YAML, and needs no library.
func (a Access) Kubeconfig() ([]byte, error) {
	const name = "stepin-e2e"
	type object = map[string]any
	user := object{}
	if a.Client != nil {
		user["client-certificate-data"], user["client-key-data"] = a.Client.Cert, a.Client.Key
	} else {
		user["token"] = a.Token
	}
	context := object{"cluster": name, "user": name}
	if a.Namespace != "" {
		context["namespace"] = a.Namespace
	}
	text, err := json.MarshalIndent(object{
		"apiVersion": "v1", "kind": "Config", "current-context": name,
		"clusters": []object{{"name": name, "cluster": object{"server": a.Server, "certificate-authority-data": a.CA}}},
		"users":    []object{{"name": name, "user": user}},
		"contexts": []object{{"name": name, "context": context}},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("pki: writing a kubeconfig: %w", err)
	}
	return append(text, '\n'), nil
}

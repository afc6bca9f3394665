package pki

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

func TestIssue(t *testing.T) {
	a, pair, err := New("test")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pair.Cert) {
		t.Fatal("the authority's certificate cannot be read")
	}
	for name, test := range map[string]struct {
		leaf  Leaf
		usage x509.ExtKeyUsage
	}{
		"server": {Leaf{Name: "api", Addrs: []net.IP{net.ParseIP("192.0.2.1")}, Hosts: []string{"api.test"}, Life: time.Hour}, x509.ExtKeyUsageServerAuth},
		"client": {Leaf{Name: "user", Groups: []string{"group"}, Life: time.Hour}, x509.ExtKeyUsageClientAuth},
	} {
		issued, err := a.Issue(test.leaf)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(issued.Cert)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		options := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{test.usage}}
		if _, err := cert.Verify(options); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if cert.Subject.CommonName != test.leaf.Name || !slices.Equal(cert.Subject.Organization, test.leaf.Groups) {
			t.Errorf("%s: %v", name, cert.Subject)
		}
		for _, host := range append(test.leaf.Hosts, "192.0.2.1") {
			if err := cert.VerifyHostname(host); (err == nil) != (name == "server") {
				t.Errorf("%s: %s: %v", name, host, err)
			}
		}
	}
}

func TestWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	_, pair, err := New("test")
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Write(dir, "ca"); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(got); err != nil {
		t.Error(err)
	}
	for name, broken := range map[string]*Pair{
		"no certificate": {nil, got.Key}, "no key": {got.Cert, nil}, "crossed": {got.Key, got.Cert},
	} {
		if _, err := Parse(broken); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if _, err := Read(dir, "other"); err == nil {
		t.Error("read what is not there")
	}
}

func TestKubeconfig(t *testing.T) {
	for name, access := range map[string]Access{
		"token":       {Server: "https://192.0.2.1:6443", CA: []byte("ca"), Token: "secret", Namespace: "shop"},
		"certificate": {Server: "https://192.0.2.1:6443", CA: []byte("ca"), Client: &Pair{[]byte("cert"), []byte("key")}},
	} {
		text, err := access.Kubeconfig()
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Clusters []struct {
				Cluster struct {
					Server string
					CA     []byte `json:"certificate-authority-data"`
				}
			}
			Users []struct {
				User struct {
					Token string
					Cert  []byte `json:"client-certificate-data"`
				}
			}
			Contexts []struct{ Context struct{ Namespace string } }
		}
		if err := yaml.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		user := got.Users[0].User
		if got.Clusters[0].Cluster.Server != access.Server || string(got.Clusters[0].Cluster.CA) != "ca" || user.Token != access.Token ||
			(string(user.Cert) == "cert") != (access.Client != nil) || got.Contexts[0].Context.Namespace != access.Namespace {
			t.Errorf("%s: %s", name, text)
		}
	}
}

func TestToken(t *testing.T) {
	key, text, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseKey(text); err != nil || !again.Equal(key) {
		t.Fatal("the key is another one after reading it", err)
	}
	token, err := Token(key, Claims{Issuer: "issuer", Audience: "us", Namespace: "shop", Account: "orders", UID: "1", Life: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || len(signature) != 64 {
		t.Fatal(len(signature), err)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if !ecdsa.Verify(&key.PublicKey, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		t.Error("the signature is not the key's")
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Sub      string
		Iat, Exp int64
	}
	if err := json.Unmarshal(body, &claims); err != nil || claims.Sub != "system:serviceaccount:shop:orders" || claims.Exp-claims.Iat != 1 {
		t.Errorf("%s %v", body, err)
	}
}

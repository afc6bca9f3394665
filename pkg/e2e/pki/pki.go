// Package pki makes the keys, certificates and kubeconfigs of the test cluster, and the short-lived tokens of its
// users. Everything is written with mode 0600 into one directory. It must never be used for a cluster that outlives a
// test run: the authority's key lies beside what it signs.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Forever is the life of what the cluster itself uses; a cluster is made anew after each cluster-down.
const Forever = 10 * 365 * 24 * time.Hour

// skew is by how much certificates and tokens are older than they are, for clocks that differ.
const skew = time.Hour

// Pair is a certificate and its key, each in PEM.
type Pair struct{ Cert, Key []byte }

// Authority signs certificates.
type Authority struct {
	// PEM is its own certificate.
	PEM []byte

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Leaf is what a certificate says. With Addrs or Hosts it is a server's, otherwise a client's: Name is then the user
// and Groups the user's groups, as Kubernetes reads them.
type Leaf struct {
	Name   string
	Groups []string
	Addrs  []net.IP
	Hosts  []string
	Life   time.Duration
}

// New makes an authority.
func New(name string) (*Authority, *Pair, error) {
	key, keyPEM, err := NewKey()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := sign(template, template, &key.PublicKey, key, Forever)
	if err != nil {
		return nil, nil, err
	}
	pair := &Pair{Cert: encode("CERTIFICATE", der), Key: keyPEM}
	a, err := Parse(pair)
	return a, pair, err
}

// Parse reads an authority from its certificate and key.
func Parse(p *Pair) (*Authority, error) {
	block, _ := pem.Decode(p.Cert)
	if block == nil {
		return nil, errors.New("pki: no certificate in the authority's file")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("pki: reading the authority's certificate: %w", err)
	}
	key, err := ParseKey(p.Key)
	if err != nil {
		return nil, err
	}
	return &Authority{PEM: p.Cert, cert: cert, key: key}, nil
}

// Issue signs a new key's certificate.
func (a *Authority) Issue(l Leaf) (*Pair, error) {
	key, keyPEM, err := NewKey()
	if err != nil {
		return nil, err
	}
	usage := x509.ExtKeyUsageClientAuth
	if len(l.Addrs)+len(l.Hosts) > 0 {
		usage = x509.ExtKeyUsageServerAuth
	}
	der, err := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: l.Name, Organization: l.Groups}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: l.Addrs, DNSNames: l.Hosts,
	}, a.cert, &key.PublicKey, a.key, l.Life)
	if err != nil {
		return nil, err
	}
	return &Pair{Cert: encode("CERTIFICATE", der), Key: keyPEM}, nil
}

// NewKey makes a key, as itself and in PEM.
func NewKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("pki: making a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("pki: encoding a key: %w", err)
	}
	return key, encode("EC PRIVATE KEY", der), nil
}

// ParseKey reads a key that NewKey has made.
func ParseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("pki: no key in a key's file")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("pki: reading a key: %w", err)
	}
	return key, nil
}

// Write leaves NAME.crt and NAME.key in dir.
func (p *Pair) Write(dir, name string) error {
	if err := os.WriteFile(filepath.Join(dir, name+".key"), p.Key, 0o600); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".crt"), p.Cert, 0o600); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	return nil
}

// Read reads what Write has left.
func Read(dir, name string) (*Pair, error) {
	p := &Pair{}
	for suffix, into := range map[string]*[]byte{".key": &p.Key, ".crt": &p.Cert} {
		text, err := os.ReadFile(filepath.Join(dir, name+suffix))
		if err != nil {
			return nil, fmt.Errorf("pki: %w", err)
		}
		*into = text
	}
	return p, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func sign(template, parent *x509.Certificate, public *ecdsa.PublicKey, signer *ecdsa.PrivateKey, life time.Duration) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = time.Now().Add(-skew), time.Now().Add(life)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, fmt.Errorf("pki: signing for %s: %w", template.Subject.CommonName, err)
	}
	return der, nil
}

package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	etcdURL = "http://127.0.0.1:2379"
	pki     = Home + "/" + PKI
	conf    = Home + "/conf"

	// poll is the pace at which a component that comes up is asked.
	poll = 100 * time.Millisecond
)

// bringUp starts the components in the order in which they need each other. Each goes on by itself from then on.
func bringUp(ctx context.Context, s *supervisor) {
	s.start(service{"etcd", append(component("etcd"),
		"--data-dir="+Home+"/etcd", "--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL,
		"--listen-peer-urls=http://127.0.0.1:2380", "--logger=zap", "--log-level=warn",
		"--unsafe-no-fsync", // nothing in it is worth the disk's time
		// Each session may upload megabytes. The default quota is 2 GiB, of old revisions too, and the log keeps 100000 writes.
		"--quota-backend-bytes=8589934592", "--auto-compaction-mode=revision", "--auto-compaction-retention=2000",
		"--snapshot-count=2000", "--max-wals=1", "--max-snapshots=1")})
	s.start(service{"containerd", []string{"containerd", "--config=" + conf + "/containerd.toml"}})
	s.start(service{"apiserver", apiserver()})
	if err := ready(ctx); err != nil {
		s.log.Error("the API server will not be ready", "err", err)
		return
	}
	s.start(service{"controller-manager", manager()})
	s.start(service{"scheduler", append(component("scheduler"), asClient("scheduler", "--leader-elect=false")...)})
	s.start(service{"kubelet", append(component("kubelet"), "--config="+conf+"/kubelet.yaml",
		"--kubeconfig="+pki+"/kubelet.conf", "--hostname-override="+Name, "--node-ip="+Address)})
	s.start(service{"proxy", append(component("proxy"), "--config="+conf+"/proxy.yaml")})
}

func component(name string) []string { return []string{Home + "/" + Kubernetes, name} }

// asClient are the flags of a component that has one kubeconfig for all it does.
func asClient(name string, more ...string) []string {
	file := pki + "/" + name + ".conf"
	return append([]string{"--kubeconfig=" + file, "--authentication-kubeconfig=" + file, "--authorization-kubeconfig=" + file}, more...)
}

func apiserver() []string {
	return append(component("apiserver"),
		"--etcd-servers="+etcdURL, "--advertise-address="+Address, fmt.Sprintf("--secure-port=%d", Port),
		"--service-cluster-ip-range="+Services, "--allow-privileged=true",
		// PodSecurity is on by default.
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--client-ca-file="+pki+"/ca.crt", "--tls-cert-file="+pki+"/apiserver.crt", "--tls-private-key-file="+pki+"/apiserver.key",
		"--service-account-issuer="+Issuer, "--service-account-key-file="+pki+"/sa.key", "--service-account-signing-key-file="+pki+"/sa.key",
		"--kubelet-client-certificate="+pki+"/apiserver-kubelet.crt", "--kubelet-client-key="+pki+"/apiserver-kubelet.key",
		"--kubelet-certificate-authority="+pki+"/ca.crt", "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file="+pki+"/ca.crt", "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file="+pki+"/front-proxy.crt", "--proxy-client-key-file="+pki+"/front-proxy.key",
		"--audit-policy-file="+conf+"/audit.yaml", "--audit-log-path="+Home+"/"+Log+"/audit.log", "--audit-log-mode=blocking",
		"--audit-log-maxsize=64", "--audit-log-maxbackup=1",
	)
}

func manager() []string {
	return append(component("controller-manager"), asClient("controller-manager",
		"--service-account-private-key-file="+pki+"/sa.key", "--root-ca-file="+pki+"/ca.crt",
		"--cluster-signing-cert-file="+pki+"/ca.crt", "--cluster-signing-key-file="+pki+"/ca.key",
		"--use-service-account-credentials=true", "--leader-elect=false",
		"--flex-volume-plugin-dir=/var/lib/kubelet/plugins")...) // instead of one below /usr, which is the machine's
}

// ready waits until the API server says that it is.
func ready(ctx context.Context) error {
	ca, err := os.ReadFile(pki + "/ca.crt")
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	for !says(ctx, client, fmt.Sprintf("https://%s:%d/readyz", Address, Port)) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
	return nil
}

func says(ctx context.Context, client *http.Client, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body) // the connection is used again
	return response.StatusCode == http.StatusOK
}

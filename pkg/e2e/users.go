package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepin-dev/stepin/pkg/e2e/node"
	"github.com/stepin-dev/stepin/pkg/e2e/pki"
)

// User makes a user who may do just what the rules say in one namespace, and returns a kubeconfig for it. The user is a
// service account, which can be made in every cluster.
func (c *Cluster) User(t testing.TB, namespace, name string, rules ...rbacv1.PolicyRule) string {
	t.Helper()
	ctx, as := Limit(t), metav1.ObjectMeta{Name: name, Namespace: namespace}
	if _, err := c.Client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: as}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: as, Rules: rules}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Bind(t, namespace, name, rbacv1.RoleRef{Kind: "Role", Name: name})
	c.allowed(t, namespace, name, rules)
	return c.TokenConfig(t, namespace, c.Token(t, namespace, name, time.Hour))
}

// Bind gives a user another role, as from a manifest under test.
func (c *Cluster) Bind(t testing.TB, namespace, name string, role rbacv1.RoleRef) {
	t.Helper()
	role.APIGroup = rbacv1.GroupName
	_, err := c.Client.RbacV1().RoleBindings(namespace).Create(Limit(t), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-", Namespace: namespace}, RoleRef: role,
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: namespace}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// Allow gives a user further rights.
func (c *Cluster) Allow(t testing.TB, namespace, name string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	role, err := c.Client.RbacV1().Roles(namespace).Create(Limit(t), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-", Namespace: namespace}, Rules: rules}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Bind(t, namespace, name, rbacv1.RoleRef{Kind: "Role", Name: role.Name})
	c.allowed(t, namespace, name, rules)
}

// allowed waits until the API server has heard of a role: it decides by what its watches have told it.
func (c *Cluster) allowed(t testing.TB, namespace, name string, rules []rbacv1.PolicyRule) {
	t.Helper()
	if len(rules) == 0 {
		return
	}
	one := func(all []string, instead string) string {
		if all[0] == rbacv1.VerbAll {
			return instead
		}
		return all[0]
	}
	resource, sub, _ := strings.Cut(one(rules[0].Resources, "pods"), "/")
	review := &authv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: namespace}, Spec: authv1.SubjectAccessReviewSpec{
		User: "system:serviceaccount:" + namespace + ":" + name,
		ResourceAttributes: &authv1.ResourceAttributes{Namespace: namespace, Verb: one(rules[0].Verbs, "get"),
			Group: one(rules[0].APIGroups, ""), Resource: resource, Subresource: sub}}}
	Eventually(t, Patience, "the API server knows what "+name+" may do", func() bool {
		answer, err := c.Client.AuthorizationV1().LocalSubjectAccessReviews(namespace).Create(Limit(t), review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Status.Allowed
	})
}

// Allow is one rule: verbs on resources (`pods/exec`) of a group.
func Allow(verbs []string, group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: resources}
}

// shortest is the shortest life that the API gives a token.
const shortest = 10 * time.Minute

// Token is a token for a service account. One that lives shorter than ten minutes is signed here, which takes the
// cluster of this machine.
func (c *Cluster) Token(t testing.TB, namespace, account string, life time.Duration) string {
	t.Helper()
	if life < shortest {
		return c.briefToken(t, namespace, account, life)
	}
	seconds := int64(life / time.Second)
	made, err := c.Client.CoreV1().ServiceAccounts(namespace).CreateToken(Limit(t), account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made.Status.Token
}

func (c *Cluster) briefToken(t testing.TB, namespace, account string, life time.Duration) string {
	t.Helper()
	c.NeedsNode(t, "a token of "+life.String())
	sa, err := c.Client.CoreV1().ServiceAccounts(namespace).Get(Limit(t), account, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(c.own.State, node.PKI, "sa.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	token, err := pki.Token(key, pki.Claims{
		Issuer: node.Issuer, Audience: node.Issuer, Namespace: namespace, Account: account, UID: string(sa.UID), Life: life,
	})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TokenConfig is a kubeconfig with a token.
func (c *Cluster) TokenConfig(t testing.TB, namespace, token string) string {
	t.Helper()
	return c.config(t, pki.Access{Token: token, Namespace: namespace})
}

// CertificateConfig is a kubeconfig for a user known by a certificate; it takes the cluster of this machine.
func (c *Cluster) CertificateConfig(t testing.TB, namespace, user string, groups []string, life time.Duration) string {
	t.Helper()
	c.NeedsNode(t, "a client certificate")
	authority, err := c.own.Authority()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Leaf{Name: user, Groups: groups, Life: life})
	if err != nil {
		t.Fatal(err)
	}
	return c.config(t, pki.Access{Client: pair, Namespace: namespace})
}

// config writes a kubeconfig for the same server.
func (c *Cluster) config(t testing.TB, access pki.Access) string {
	t.Helper()
	access.Server, access.CA = c.Config.Host, c.Config.CAData
	if len(access.CA) == 0 && c.Config.CAFile != "" {
		var err error
		if access.CA, err = os.ReadFile(c.Config.CAFile); err != nil {
			t.Fatal(err)
		}
	}
	text, err := access.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

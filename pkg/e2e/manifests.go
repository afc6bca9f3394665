package e2e

import "fmt"

// Web is a Deployment of the workload and a Service of its name, port 80, in front of it: it serves HTTP on 8080 and TCP
// on 9000, is probed, and ends at once. Tests with more to say write their own.
func Web(name string, replicas int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: stepin.test/workload:1
          imagePullPolicy: Never
          args: [serve, -name=%[1]s, "-http=:8080", "-tcp=:9000"]
          ports: [{name: http, containerPort: 8080}, {name: tcp, containerPort: 9000}]
          readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1}
          livenessProbe: {httpGet: {path: /live, port: http}, periodSeconds: 2}
          resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
---
`+Service, name, replicas)
}

// Service is a Service for pods labelled app=NAME, as a format of one argument.
const Service = `
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}]
`

// Client is a pod that does nothing until it is told to: see Exec and Ask. It is admitted at every level.
func Client(name string) string { return idle(name, "stepin.test/workload:1") }

// ClientShell is Client with a shell.
func ClientShell(name string) string { return idle(name, "stepin.test/shell:1") }

func idle(name, image string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: client
      image: %s
      imagePullPolicy: Never
      args: [pause]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`, name, image)
}

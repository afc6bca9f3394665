// In the place of deployments, for TestVSCode of pkg/e2e, which has made them: node cluster.ts '{"namespace": …, "ask": the
// address that asks the Service named at its end from another pod, "remove": that which removes the deployment named there,
// "powerless": the kubeconfig of somebody who may do nothing}'.
import { type Pod, suite } from "./suite.ts";

interface Told {
  namespace: string;
  ask: string;
  remove: string;
  powerless: string;
}

const { namespace, ask, remove, powerless } = JSON.parse(process.argv[2] ?? "{}") as Told;

function deployment(name: string): Pod {
  return {
    target: { target: `deployment/${name}`, namespace, agent: { ttl: "2s" } },
    sees: { caller: /\d+\.\d+\.\d+\.\d+:\d+/, variable: /north/, file: /most: 12/, host: new RegExp(`${name}-`) },
    name: `pod ${name}-\\S+`,
    ask: async () => (await fetch(ask + name)).text(),
    own: new RegExp(`"Who":"${name}"`),
  };
}

suite({
  name: "cluster",
  args: ["REGION", "/etc/orders/config/limits.yaml"],
  first: () => deployment("orders"),
  second: () => deployment("bills"),
  cluster: {
    ...{ pick: "deployment/orders", namespace, powerless },
    ...{ passing: "deployment/passing", remove: () => fetch(`${remove}passing`) },
  },
});

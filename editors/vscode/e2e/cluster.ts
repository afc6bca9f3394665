// F5 in the place of a deployment, for TestVSCode of pkg/e2e, which has made it: node cluster.ts '{"namespace": …,
// "folder": the program's, "ask": the address that asks the Service from another pod}'.
import { join } from "node:path";
import { f5 } from "./f5.ts";

interface Told {
  namespace: string;
  folder: string;
  ask: string;
}

const { namespace, folder, ask } = JSON.parse(process.argv[2] ?? "{}") as Told;

await f5({
  name: "cluster",
  folder,
  file: join(folder, "main.go"),
  mark: "// a breakpoint's line",
  launch: {
    type: "stepin",
    request: "launch",
    name: "orders, in the cluster",
    target: "pick",
    namespace,
    debugger: { type: "go", program: "${workspaceFolder}" },
    incoming: { mode: "steal", ports: [8080] },
    agent: { ttl: "2s" },
  },
  between: async (w) => {
    await w.pick("deployment/orders");
  },
  ready: "tcp port 8080 of pod orders-",
  variables: { caller: /\d+\.\d+\.\d+\.\d+:\d+/, region: /north/, host: /orders-/ },
  ask: async () => (await fetch(ask)).text(),
  answered: /200 orders-.* on your desk, north, most: 12/,
  afterwards: /"Who":"orders"/,
});

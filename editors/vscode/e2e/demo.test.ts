// In the place of the demo's pod: no cluster, all on this machine.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { after, before } from "node:test";
import { type Pod, suite } from "./suite.ts";

const stepin = join(import.meta.dirname, "../../../bin/stepin");

/** A pod of the demo's; its customer asks every two seconds. Goes with dispose. */
class Demo {
  readonly #child = spawn(stepin, ["demo", "--stay"], { stdio: ["ignore", "pipe", "inherit"] });
  readonly #ended = new Promise((resolve) => this.#child.once("exit", resolve));
  #said = "";
  #heard: (() => void)[] = [];
  #pid = "";

  constructor() {
    this.#child.stdout.setEncoding("utf8").on("data", (text: string) => {
      this.#said += text;
      for (const f of this.#heard.splice(0)) f();
    });
  }

  /** Waits until the customer asks. */
  async ready(): Promise<void> {
    const [, pid] = await this.#hear(/"target": "local\/(\d+)"/);
    assert.ok(pid);
    this.#pid = pid;
    await this.#hear(/^.*Order .*$/m);
  }

  pod(): Pod {
    return {
      target: { target: `local/${this.#pid}` },
      sees: { caller: /192\.0\.2\.7/, variable: /EUR/, file: /Good morning!/, host: /orders/ },
      name: "the pod",
      ask: () => this.#answer(),
      own: /Order 42(?!.*on your desk)/,
    };
  }

  async dispose(): Promise<void> {
    this.#child.kill("SIGINT");
    await this.#ended;
  }

  /** Waits for what the demo says from a place in its words on; only whole lines count. */
  async #hear(pattern: RegExp, from = 0): Promise<RegExpExecArray> {
    for (;;) {
      const found = pattern.exec(this.#said.slice(from, this.#said.lastIndexOf("\n") + 1));
      if (found) return found;
      await new Promise<void>((resolve) => this.#heard.push(resolve));
    }
  }

  /** The next answer that the customer gets, or what he gets instead. */
  async #answer(): Promise<string> {
    return (await this.#hear(/^.+$/m, this.#said.length))[0];
  }
}

const pods: Demo[] = [];
before(async () => {
  for (let i = 0; i < 2; i++) {
    const demo = new Demo();
    pods.push(demo);
    await demo.ready();
  }
});
after(() => Promise.all(pods.map((demo) => demo.dispose())));

const pod = (i: number): Pod => {
  const demo = pods[i];
  assert.ok(demo);
  return demo.pod();
};

suite({
  name: "demo",
  env: { KUBECONFIG: "/nowhere" },
  args: ["CURRENCY", "/etc/orders/greeting"],
  first: () => pod(0),
  second: () => pod(1),
});

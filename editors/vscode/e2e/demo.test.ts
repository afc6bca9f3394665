// F5 in the place of the demo's pod: no cluster, all on this machine.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { f5 } from "./f5.ts";

const stepin = join(import.meta.dirname, "../../../bin/stepin");

/** The demo's pod; its customer asks every two seconds. Goes with dispose. */
class Demo {
  readonly #child = spawn(stepin, ["demo", "--stay"], { stdio: ["ignore", "pipe", "inherit"] });
  readonly #ended = new Promise((resolve) => this.#child.once("exit", resolve));
  #said = "";
  #heard: (() => void)[] = [];

  constructor() {
    this.#child.stdout.setEncoding("utf8").on("data", (text: string) => {
      this.#said += text;
      for (const f of this.#heard.splice(0)) f();
    });
  }

  /** Waits for what the demo says from a place in its words on; only whole lines count. */
  async hear(pattern: RegExp, from = 0): Promise<RegExpExecArray> {
    for (;;) {
      const found = pattern.exec(this.#said.slice(from, this.#said.lastIndexOf("\n") + 1));
      if (found) return found;
      await new Promise<void>((resolve) => this.#heard.push(resolve));
    }
  }

  /** The next answer that the customer gets. */
  async answer(): Promise<string> {
    return (await this.hear(/^.*Order 42.*$/m, this.#said.length))[0];
  }

  async dispose(): Promise<void> {
    this.#child.kill("SIGINT");
    await this.#ended;
  }
}

test("F5 in the place of the demo's pod", { timeout: 180_000 }, async (t) => {
  const demo = new Demo();
  t.after(() => demo.dispose());
  const [, pid] = await demo.hear(/"target": "local\/(\d+)"/);
  const [, folder] = await demo.hear(/"program": "(.*?)"/);
  assert.ok(pid && folder);
  await demo.hear(/^.*Order 42.*$/m);
  await f5({
    name: "demo",
    folder,
    file: join(folder, "main.go"),
    mark: "// the demo stops here",
    launch: {
      type: "stepin",
      request: "launch",
      name: "orders, in its pod's place",
      target: `local/${pid}`,
      debugger: { type: "go", program: "${workspaceFolder}" },
      incoming: { mode: "steal", ports: [8080] },
    },
    ready: "tcp port 8080 of the pod",
    variables: { customer: /192\.0\.2\.7/, greeting: /Good morning!/, stock: /7/, warehouse: /10\.96\.0\.20/ },
    ask: () => demo.answer(),
    answered: /on your desk/,
    afterwards: /Order 42(?!.*on your desk)/,
  });
});

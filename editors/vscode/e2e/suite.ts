// What is tried in the place of a pod, whatever pod it is: Go, Python and Node, stolen by a configuration of type stepin and
// mirrored by a block in another extension's; restart after an edit; tests; two at once; what can go wrong.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { cpSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { gone, powerlessWrongs, refused, twoWindows, unfinished, untrusted, wrongs } from "./badinput.ts";
import { debugTest } from "./debugtest.ts";
import { askOn, backAgain, finish, type Gesture, pausedAt, writeLaunch } from "./f5.ts";
import { until, Workbench } from "./workbench.ts";

export interface Pod {
  target: Record<string, unknown>; // the keys of a configuration that say which
  sees: Record<"host" | "caller" | "variable" | "file", RegExp>; // what a program in its place sees
  name: string; // as the Debug Console has it, a pattern
  ask: () => Promise<string>;
  own: RegExp; // its own answers
}

export interface Suite {
  name: string; // of screenshots and log
  env?: NodeJS.ProcessEnv;
  args: [variable: string, file: string]; // the desk's programs', the same in both pods
  first: () => Pod;
  second: () => Pod;
  /** What there is only in a cluster. */
  cluster?: Cluster;
}

export interface Cluster {
  pick: string; // a row of the picker
  namespace: string;
  powerless: string; // the kubeconfig of somebody who may do nothing
  /** A deployment that may go, and its end. */
  passing: string;
  remove: () => Promise<unknown>;
}

const desks = join(import.meta.dirname, "../../../pkg/e2e/testdata/desk");
const deskAnswers = /Order on your desk/;
const programs = { go: "main.go", python: "orders.py", node: "orders.js" };
const debuggers = {
  go: { type: "go", program: "${workspaceFolder}" },
  python: { type: "python", program: "orders.py", python: "/usr/bin/python3" },
  node: { type: "node", program: "orders.js" },
};
/** The same by the extensions of those languages: stand-ins for the first two, VS Code's own for the third. */
const others = {
  go: { type: "go", program: "${workspaceFolder}" },
  python: { type: "debugpy", program: "${workspaceFolder}/orders.py" },
  node: { type: "node", program: "${workspaceFolder}/orders.js" },
};
type Language = keyof typeof programs;

export function suite(s: Suite): void {
  let w: Workbench;
  const mark = randomUUID();
  before(async () => {
    w = await Workbench.start(s.name, { ...s.env, CGO_ENABLED: "0", [marker]: mark });
  });
  after(() => w.close());

  const gesture = (language: Language, mode: "steal" | "mirror"): Gesture => {
    const folder = desk(s.args);
    const pod = s.first();
    const name = `${language}, ${mode}`;
    const ours = { ...pod.target, incoming: { mode, ports: [8080] } };
    const theirs = { ...others[language], args: s.args, envFile: "${workspaceFolder}/.env", stepin: ours };
    const stolen = { ...ours, type: "stepin", debugger: { ...debuggers[language], args: s.args } };
    return {
      folder,
      file: programs[language],
      launch: { name, ...{ request: "launch" }, ...(mode === "steal" ? stolen : theirs) },
      ready: new RegExp(`tcp port 8080 of ${pod.name} now sends ${mode === "steal" ? "its new connections" : "copies"}`),
      variables: { ...pod.sees, ...(mode === "mirror" ? { given: /of the file/ } : {}) },
      ask: pod.ask,
      answered: mode === "steal" ? deskAnswers : pod.own,
      afterwards: pod.own,
    };
  };
  let failed = false;
  const tried = (name: string, f: () => Promise<void>) => {
    test(name, { timeout: patience }, async () => {
      assert.ok(!failed, "left out: one before it has failed, and each waits for long");
      try {
        await f();
      } catch (err) {
        failed = true;
        await w.screenshot("failed").catch(() => undefined);
        throw err;
      }
    });
  };

  for (const language of ["go", "python", "node"] as const) {
    for (const mode of ["steal", "mirror"] as const) {
      tried(`${language}, ${mode}`, async () => {
        const g = gesture(language, mode);
        if (mode === "steal")
          g.then = async () => {
            await restarted(w, g);
            if (language === "python") await looked(w, g, s.first().own);
          };
        const { cluster } = s;
        if (language === "go" && mode === "steal" && cluster) {
          Object.assign(g.launch, { target: "pick" });
          g.between = () => w.pick(cluster.pick, () => w.screenshot("pick"));
        }
        await finish(w, g, await pausedAt(w, g));
      });
    }
  }
  for (const language of ["go", "python"] as const)
    tried(`${language}, a test`, async () => {
      const { target, sees } = s.first();
      const { caller: _, ...rest } = sees;
      await debugTest(w, { folder: desk(s.args), language, stepin: target, sees: { ...rest, given: /of the file/ } });
    });
  tried("two at once", () => twoAtOnce(w, s));
  const { cluster } = s;
  if (cluster) {
    const { namespace, powerless, passing, remove } = cluster;
    tried("a cluster without rights", () => refused(w, desk(s.args), powerlessWrongs(namespace, powerless)));
    tried("the target deleted while it is picked", () => gone(w, desk(s.args), { namespace, target: passing, remove }));
    tried("two windows on one target", () => {
      const g = gesture("python", "steal");
      return twoWindows(w, { folders: [g.folder, desk(s.args)], target: s.first().target, ready: g.ready, ask: g.ask, own: g.afterwards });
    });
  } else {
    tried("configurations that cannot be started", () => {
      const folder = desk(s.args);
      return refused(w, folder, wrongs(folder));
    });
    tried("a broken launch.json", () => unfinished(w, desk(s.args)));
    tried("a folder that is not trusted", () => untrusted(s.name, { ...s.env, [marker]: mark }, desk(s.args), () => leftovers(mark)));
  }
  tried("the window reloaded in the middle", () => leftInTheMiddle(() => w.page.reload()));
  tried("the window closed in the middle", () => leftInTheMiddle(() => w.page.close()));

  const leftInTheMiddle = async (leave: () => Promise<unknown>) => {
    const g = gesture("python", "steal");
    const { answer } = await pausedAt(w, g);
    assert.notDeepEqual(leftovers(mark), []);
    await leave();
    await answer.catch(() => undefined); // the caller's connection is ended, or the pod has answered
    await backAgain(g.ask, g.afterwards);
    await until("the end of what the window started", () => leftovers(mark).length === 0);
  };
}

/** How long one of them may take, in ms: several times what a slow machine needs. */
const patience = 240_000;

/** Where the folders are; it goes with the tests. */
const folders = realpathSync(mkdtempSync(join(tmpdir(), "desks-")));
process.once("exit", () => {
  rmSync(folders, { recursive: true });
});

/** A developer's folder: one program in three languages, and tests. */
function desk([variable, path]: Suite["args"]): string {
  const folder = mkdtempSync(join(folders, "desk-"));
  cpSync(desks, folder, { recursive: true });
  writeFileSync(join(folder, "go.mod"), "module orders\n\ngo 1.22\n");
  writeFileSync(join(folder, ".env"), `GIVEN=of the file\nVARIABLE=${variable}\nFILE=${path}\n`);
  return folder;
}

/** Edits the program and has it restarted, the session and its agent staying. */
async function restarted(w: Workbench, g: Gesture): Promise<void> {
  const file = join(g.folder, g.file);
  writeFileSync(file, readFileSync(file, "utf8").replace(/("|on your )desk/, "$1tidy desk"));
  await w.press("Control+Shift+F5");
  await askOn(w, g.ask, /on your tidy desk/);
  w.tell("restarted after an edit");
}

/** What is shown of a session while it runs, and the switch of its mode. */
async function looked(w: Workbench, g: Gesture, own: RegExp): Promise<void> {
  await w.section("Cluster Sessions", /steal/);
  await w.console(/GET \/orders\/\d+\s+200\s+[\d.]+ m?s\s+from \d/);
  const item = await w.status(/: steal, [1-9]\d* request/);
  await w.screenshot("looked at");
  await item.click();
  await w.pick("Switch the Mode");
  await w.pick("mirror");
  await w.status(/: mirror, \d+ request/);
  await askOn(w, g.ask, own);
  w.tell("looked at, and mirrored");
}

/** A compound of two programs in the place of two pods. */
async function twoAtOnce(w: Workbench, s: Suite): Promise<void> {
  const folder = desk(s.args);
  const pods = [s.first(), s.second()];
  const languages = ["python", "node"] as const;
  const configurations = pods.map((pod, i) => ({
    ...{ type: "stepin", request: "launch", name: `${i}`, presentation: { hidden: true } },
    ...pod.target,
    debugger: { ...debuggers[languages[i] ?? "go"], args: s.args },
    incoming: { mode: "steal", ports: [8080] },
  }));
  writeLaunch(folder, { configurations, compounds: [{ name: "both", configurations: ["0", "1"], stopAll: true }] });
  await w.open({ folder, file: join(folder, programs.go), line: 1 }); // of a third program
  await w.selected("both");
  await w.press("F5");
  await Promise.all(pods.map((pod) => until("an answer", async () => deskAnswers.test(await pod.ask()))));
  await w.screenshot("both");
  w.tell("both answer");
  await w.press("Shift+F5");
  await w.ended();
  await Promise.all(pods.map((pod) => backAgain(pod.ask, pod.own)));
}

/** A variable that everything has which the workbench starts. */
const marker = "STEPIN_E2E_WINDOW";

/** What runs of what a workbench has started, but for VS Code itself. */
function leftovers(mark: string): string[] {
  return readdirSync("/proc").flatMap((pid) => {
    try {
      if (!readFileSync(`/proc/${pid}/environ`, "utf8").split("\0").includes(`${marker}=${mark}`)) return [];
      const line = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
      return line.includes("code-server") ? [] : [line];
    } catch {
      return []; // no process, or it has gone
    }
  });
}

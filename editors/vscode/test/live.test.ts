// What a user looks at while sessions run: status bar, its menu, Cluster Sessions, progress. The adapter is played (mock.ts).
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import type * as vscode from "vscode";
import { bar, menu, switchMode } from "../src/bar.ts";
import { Live } from "../src/live.ts";
import { Progresses } from "../src/progress.ts";
import { type Node, SessionsView } from "../src/sessions.ts";
import { tracker } from "../src/show.ts";
import type { State } from "../src/state.ts";
import { MockAdapter, PlayedSession, Refusal } from "./mock.ts";
import { afresh, answers, barItem, cancelled, happens, said, view } from "./vscode.ts";

const orders: State = {
  ...{ target: "deployment/orders", namespace: "shop", context: "dev", mode: "steal", who: "ada@laptop", session: "S1" },
  pods: [{ name: "orders-a" }, { name: "orders-b", home: true, connected: true }],
  ports: [{ port: 8080, pod: 80, network: "tcp" }],
};
const request = { id: 1, pod: "orders-a", port: 8080, protocol: "HTTP/1.1", method: "GET", path: "/", status: 200, mode: "steal" };

const open: { dispose?(): unknown; close?(): void; end?(): void }[] = [];
beforeEach(() => {
  afresh();
  view.visible = false;
});
afterEach(() => {
  for (const one of open.splice(0).reverse()) (one.end ?? one.close ?? one.dispose)?.call(one);
});

/** Waits until it is so; node --test ends what never is. */
async function until(so: () => unknown): Promise<void> {
  while (!so()) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** A running session and its adapter. */
async function started(state: State, more: Record<string, (args: unknown) => unknown> = {}) {
  const adapter = await MockAdapter.start({ "stepin.state": () => state, ...more });
  const { target, namespace } = state;
  const config = { type: "stepin", request: "launch", name: target, target, namespace, incoming: { mode: "steal" } };
  const session = await PlayedSession.open(adapter.path, config);
  session.tracker = tracker(session as unknown as vscode.DebugSession, () => "stepin");
  open.push(adapter, session);
  return { adapter, session };
}

function window(): Live {
  const live = new Live();
  open.push(live, bar(live));
  return live;
}

test("the status bar has target, mode and requests, and goes with the session", async () => {
  window();
  assert.ok(!barItem.shown);
  const { adapter, session } = await started(orders);
  happens.starts.fire(session);
  await until(() => barItem.text === "$(server-process) orders: steal, 0 requests");
  assert.ok(said.commands.includes("setContext stepin.running 1"));
  adapter.tell("stepin.request", request);
  adapter.tell("stepin.request", { ...request, skipped: 40 });
  adapter.tell("stepin.state", { ...orders, paused: true });
  await until(() => barItem.text === "$(debug-pause) orders: steal, 42 requests");
  assert.equal(barItem.accessibilityInformation.label, "stepin session: deployment/orders, steal, 42 requests so far, paused");
  assert.match(barItem.tooltip, /^deployment\/orders: in the place of deployment\/orders in shop \(dev\)\nIncoming: steal 80; 42 requests so far; paused\n2 pods/);
  for (const broken of [null, 7, {}, { target: 1, mode: "steal" }]) adapter.tell("stepin.state", broken);
  adapter.tell("stepin.request", null);
  await until(() => barItem.text.endsWith("43 requests"));
  session.end();
  await until(() => !barItem.shown);
  assert.equal(said.commands.at(-1), "setContext stepin.running 0");
});

test("of two sessions the active one is shown; a child's requests are its parent's", async () => {
  window();
  const [one, two] = [await started(orders), await started({ ...orders, target: "deployment/bills", session: "S2" })];
  one.adapter.tell("stepin.state", orders);
  happens.starts.fire(two.session);
  happens.active.fire(two.session);
  await until(() => barItem.text.includes("bills") && barItem.tooltip.includes("2 sessions"));
  assert.match(barItem.tooltip, /2 sessions run in this window/);
  happens.active.fire(one.session);
  await until(() => barItem.text.includes("orders"));
  const child = await PlayedSession.open(one.adapter.path, { type: "stepin", request: "attach", name: "child", __stepin: {} });
  open.push(child);
  child.parentSession = two.session;
  happens.starts.fire(child);
  happens.tells.fire({ session: child, event: "stepin.request", body: request });
  happens.active.fire(child); // its breakpoint has been hit
  await until(() => barItem.text === "$(server-process) bills: steal, 1 request");
});

test("an older stepin that tells nothing is shown as it was configured", async () => {
  window();
  const { session } = await started(orders, { "stepin.state": () => new Refusal(9999, "Unsupported command") });
  happens.starts.fire(session);
  await until(() => barItem.text === "$(server-process) orders: steal, 0 requests");
});

test("the menu switches the mode; what is refused is said in the pod's own words", async () => {
  const live = window();
  let refused = false;
  const { adapter, session } = await started(orders, {
    "stepin.setMode": (args: unknown) => {
      if (refused) return new Refusal(213, "port 80 of pod orders-b is bob@desk's\nhint: mirror it");
      const state = { ...orders, ...(args as object) };
      adapter.tell("stepin.state", state);
      return state;
    },
  });
  adapter.tell("stepin.state", orders);
  await until(() => live.active());
  answers.choose = (rows) => rows.find((row) => row.label.includes("Switch the Mode") || row.label === "mirror");
  await menu(live);
  await until(() => barItem.text === "$(server-process) orders: mirror, 0 requests");
  assert.deepEqual(adapter.asked.at(-1), ["stepin.setMode", { mode: "mirror" }]);
  refused = true;
  answers.choose = (rows) => rows.find((row) => row.label === "steal");
  await switchMode(live);
  assert.deepEqual(said.errors, ["stepin: port 80 of pod orders-b is bob@desk's. mirror it"]);
  assert.deepEqual(said.buttons, []);
  adapter.answers["stepin.setMode"] = () => new Refusal(9999, "Unsupported command");
  await switchMode(live);
  assert.match(said.errors.at(-1) ?? "", /too old for this; stepin.path/);
  assert.deepEqual(said.buttons, ["Open Settings"]);
  answers.choose = (rows) => rows.find((row) => row.label.includes("Copy"));
  await menu(live);
  assert.deepEqual(said.clipboard, ["orders-b"]);
  answers.choose = (rows) => rows.find((row) => row.label.includes("End"));
  await menu(live);
  assert.deepEqual(said.stopped, [session]);
});

const list = [
  { id: "S3", pod: "orders-a", who: "bob@desk", mode: "mirror", ports: [{ port: 9090, network: "udp" }], since: "2026-01-02T10:32:00Z" },
  { id: "S2", pod: "orders-a", who: "ada@laptop", mode: "steal", ports: [80], mine: true },
  { id: "S1", pod: "orders-a", who: "ada@laptop", mode: "steal", ports: [80], mine: true, own: true },
  { id: "S1", pod: "orders-b", who: "ada@laptop", mode: "steal", ports: [80], mine: true, own: true },
];

/** The view's rows, as they are read out. */
function rows(v: SessionsView): string[] {
  return v.getChildren().flatMap((target) => [
    line(v.getTreeItem(target)),
    ...v.getChildren(target).map((node) => `  ${line(v.getTreeItem(node))}`),
  ]);
}

function line({ label, description, contextValue }: vscode.TreeItem): string {
  return [label as string, description as string | undefined, contextValue].filter(Boolean).join(" | ");
}

test("Cluster Sessions asks when it is seen, and stops what is mine", async () => {
  const live = window();
  const v = new SessionsView(live);
  open.push(v);
  assert.deepEqual(v.getChildren(), []);
  const { adapter, session } = await started(orders, { "stepin.sessions": () => ({ sessions: list }), "stepin.stopSession": () => ({}) });
  adapter.tell("stepin.state", orders);
  await until(() => live.active());
  await v.refresh();
  assert.equal(v.getChildren().length, 0); // nobody sees it
  view.visible = true;
  view.seen.fire({ visible: true });
  await until(() => rows(v)[1] === "  The session is starting …");
  assert.equal(adapter.asked.length, 0);
  happens.starts.fire(session);
  await until(() => rows(v).length > 2);
  const shown = rows(v);
  assert.deepEqual(shown.slice(0, 3), [
    "deployment/orders | in shop (dev)",
    "  ada@laptop | steal 80 · this window | mine",
    "  ada@laptop | steal 80 · yours | mine",
  ]);
  assert.match(shown[3] ?? "", /^ {2}bob@desk \| mirror 9090\/udp · since .*2026 .* \| other$/);
  const [, own, mine, other] = [undefined, ...v.getChildren(v.getChildren()[0])] as Node[];
  await v.stop(own);
  assert.deepEqual(said.stopped, [session]);
  await v.stop(mine); // no button is pressed
  assert.ok(!adapter.asked.some(([command]) => command === "stepin.stopSession"));
  answers.button = "Stop";
  await v.stop(mine);
  assert.deepEqual(adapter.asked.find(([command]) => command === "stepin.stopSession"), ["stepin.stopSession", { id: "S2" }]);
  adapter.answers["stepin.stopSession"] = () => new Refusal(502, "session S3 is not yours");
  await v.stop(other);
  assert.deepEqual(said.errors, ["stepin: session S3 is not yours"]);
});

test("Cluster Sessions follows the state, says what fails, asks each target once and one question at a time", async () => {
  const live = window();
  const v = new SessionsView(live);
  let known = 0;
  open.push(v, live.onState(() => (known = live.all().filter(({ ready }) => ready).length)));
  const [one, two] = [await started(orders), await started(orders)];
  let waiting: ((answer: unknown) => void) | undefined;
  for (const { adapter } of [one, two])
    adapter.answers["stepin.sessions"] = () => new Promise((resolve) => (waiting = resolve));
  one.adapter.tell("stepin.state", orders);
  two.adapter.tell("stepin.state", { ...orders, session: "S2" });
  await until(() => live.all().length === 2);
  happens.starts.fire(one.session);
  happens.starts.fire(two.session);
  const questions = () => [one, two].flatMap(({ adapter }) => adapter.asked).length;
  await until(() => known === 2); // no more is told of states now
  view.visible = true;
  view.seen.fire({ visible: true });
  await until(() => waiting);
  const more = [v.refresh(), v.refresh(), v.refresh()];
  assert.equal(questions(), 1);
  const first = waiting;
  waiting = undefined;
  first?.({ sessions: null });
  await until(() => waiting); // the three, at once
  (waiting as unknown as (answer: unknown) => void)(new Refusal(223, "no right to list pods\nhint: ask"));
  await Promise.all(more);
  await until(() => rows(v).length === 2);
  assert.deepEqual(rows(v), ["deployment/orders | in shop (dev)", "  no right to list pods. ask"]);
  assert.equal(questions(), 2);
  const many = Array.from({ length: 150 }, (_, i) => ({ id: `${i}`, who: `w${i}` }));
  for (const { adapter } of [one, two]) adapter.answers["stepin.sessions"] = () => ({ sessions: many });
  await v.refresh();
  assert.equal(rows(v).at(-1), "  50 more");
  one.session.end();
  two.session.end();
  await until(() => rows(v).length === 0);
});

test("a start that takes long is a notification with Cancel, for each session", async () => {
  open.push(new Progresses());
  const { adapter, session } = await started(orders, { cancel: () => ({}) });
  adapter.tell("stepin.progressStart", { progressId: "stepin-1", title: "stepin" });
  adapter.tell("stepin.progressUpdate", { progressId: "stepin-1", message: "looking for the pod", percentage: 25 });
  await until(() => said.progress.length === 2);
  assert.deepEqual(said.progress, ["stepin: deployment/orders", "looking for the pod +25"]);
  adapter.tell("stepin.progressUpdate", { progressId: "stepin-1", message: "starting Delve" });
  adapter.tell("stepin.progressUpdate", { progressId: "stepin-1", message: "starting Delve", percentage: 75 });
  await until(() => said.progress.length === 4);
  assert.deepEqual(said.progress.slice(2), ["starting Delve +0", "starting Delve +50"]);
  cancelled.fire(undefined);
  await until(() => adapter.asked.length > 0);
  assert.deepEqual(adapter.asked, [["cancel", { progressId: "stepin-1" }]]);
  adapter.tell("stepin.progressEnd", { progressId: "stepin-1" });
  await until(() => said.progress.at(-1) === "end");
  // A session that ends takes its notification along; one that is quick has none.
  adapter.tell("stepin.progressStart", { progressId: "stepin-2", title: "stepin" });
  adapter.tell("stepin.progressEnd", { progressId: "stepin-2" });
  adapter.tell("stepin.progressStart", { progressId: "stepin-3", title: "stepin" });
  await until(() => said.progress.length === 7);
  session.end();
  await until(() => said.progress.length === 8);
  assert.equal(said.progress.filter((text) => text.startsWith("stepin:")).length, 2);
});

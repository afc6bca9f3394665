// An adapter that plays, over the wire, and a debug session that talks to it, or to the real one, as VS Code's do.
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type * as vscode from "vscode";
import { happens } from "./vscode.ts";

/** What both sides read, as far as the tests look. */
interface Message {
  seq: number;
  type: "request" | "response" | "event";
  command?: string;
  arguments?: unknown;
  event?: string;
  body?: unknown;
  request_seq?: number;
  success?: boolean;
  message?: string;
}

/** A way of failing: a number of pkg/fail/codes.go and the sentence. */
export class Refusal {
  readonly id: number;
  readonly format: string;
  constructor(id: number, format: string) {
    this.id = id;
    this.format = format;
  }
}

type Answers = Record<string, (args: unknown) => unknown>;

/** Writes and reads DAP's frames (base protocol). */
class Wire {
  readonly #socket: Socket;
  #seq = 0;
  #left = Buffer.alloc(0);

  constructor(socket: Socket, heard: (m: Message) => void) {
    this.#socket = socket;
    socket.on("error", () => undefined); // the peer has gone first
    socket.on("data", (data: Buffer) => {
      this.#left = Buffer.concat([this.#left, data]);
      for (;;) {
        const head = /^Content-Length: (\d+)\r\n\r\n/.exec(this.#left.toString("latin1"));
        const end = head ? head[0].length + Number(head[1]) : Infinity;
        if (!head || this.#left.length < end) return;
        const text = this.#left.subarray(head[0].length, end).toString();
        this.#left = this.#left.subarray(end);
        heard(JSON.parse(text) as Message);
      }
    });
  }

  send(m: Omit<Message, "seq">): number {
    const text = Buffer.from(JSON.stringify({ seq: ++this.#seq, ...m }));
    this.#socket.write(`Content-Length: ${text.length}\r\n\r\n`);
    this.#socket.write(text);
    return this.#seq;
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** The adapter: answers each request by its function, which may return a Refusal, or a promise. */
export class MockAdapter {
  readonly answers: Answers;
  /** What it was asked: command and arguments. */
  readonly asked: [string, unknown][] = [];
  readonly path: string;
  readonly #dir = mkdtempSync(join(tmpdir(), "stepin-mock-"));
  readonly #server: Server;
  readonly #wire: Promise<Wire>;

  private constructor(answers: Answers) {
    this.answers = answers;
    this.path = join(this.#dir, "adapter.sock");
    this.#server = createServer();
    this.#wire = new Promise((resolve) =>
      this.#server.once("connection", (socket) => {
        resolve(new Wire(socket, (m) => void this.#answer(m)));
      }),
    );
  }

  static start(answers: Answers): Promise<MockAdapter> {
    const mock = new MockAdapter(answers);
    return new Promise((resolve) => {
      mock.#server.listen(mock.path, () => {
        resolve(mock);
      });
    });
  }

  /** Sends an event to the session that is, or will be, connected. */
  tell(event: string, body: unknown): void {
    void this.#wire.then((wire) => wire.send({ type: "event", event, body }));
  }

  close(): void {
    this.#server.close();
    rmSync(this.#dir, { recursive: true });
  }

  async #answer(m: Message): Promise<void> {
    const command = m.command ?? "";
    this.asked.push([command, m.arguments]);
    const body = await this.answers[command]?.(m.arguments);
    const refused = body instanceof Refusal;
    (await this.#wire).send({
      ...{ type: "response", command, request_seq: m.seq, success: !refused },
      ...(refused ? { message: body.format, body: { error: { id: body.id, format: body.format, showUser: false } } } : { body }),
    });
  }
}

let sessions = 0;

/** A debug session of a window: events of its adapter's own are told to whoever listens, answers come as VS Code gives them. */
export class PlayedSession {
  readonly id = `session-${++sessions}`;
  readonly type = "stepin";
  readonly name: string;
  readonly configuration: vscode.DebugConfiguration;
  readonly workspaceFolder = undefined;
  parentSession?: PlayedSession;
  tracker: vscode.DebugAdapterTracker | undefined;
  #wire: Wire;
  readonly #waiting = new Map<number, (m: Message) => void>();

  private constructor(configuration: vscode.DebugConfiguration, socket: Socket) {
    this.configuration = configuration;
    this.name = configuration.name;
    this.#wire = new Wire(socket, (m) => {
      this.#heard(m);
    });
  }

  static open(path: string, configuration: vscode.DebugConfiguration): Promise<PlayedSession> {
    return new Promise((resolve, reject) => {
      const socket = connect(path, () => {
        resolve(new PlayedSession(configuration, socket));
      }).on("error", reject);
    });
  }

  customRequest(command: string, args?: unknown): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#waiting.set(this.#wire.send({ type: "request", command, arguments: args }), (m) => {
        const { error } = (m.body ?? {}) as { error?: { format: string } };
        if (m.success) resolve(m.body);
        else reject(new Error(error?.format ?? m.message)); // rawDebugSession.ts: handleErrorResponse
      });
    });
  }

  end(): void {
    this.#wire.close();
    happens.ends.fire(this);
  }

  #heard(m: Message): void {
    this.tracker?.onDidSendMessage?.(m);
    if (m.type === "response") this.#waiting.get(m.request_seq ?? 0)?.(m);
    else if (m.type === "event" && m.event?.startsWith("stepin.")) happens.tells.fire({ session: this, event: m.event, body: m.body });
  }
}

// Errors as one sentence, with the buttons that mend them. Nothing here knows of VS Code.

/** What a button does. */
export type Cure =
  | "Open launch.json"
  | "Open stepin.yaml"
  | "Open Settings"
  | "Choose Another Target"
  | "Mirror Instead"
  | "Run Doctor"
  | "Show Log";

/** The requests whose failure we show; what a tree or a list asks for shows it itself. */
const shown = ["launch", "restart", "stepin.setMode", "stepin.stopSession"];

/** A failed answer to one of them (DAP: ErrorResponse). */
export interface FailedResponse {
  type: "response";
  command: string;
  success: false;
  message?: string;
  body?: { error?: { id?: number; format?: string } };
}

/** The buttons by the number of pkg/fail/codes.go. */
export const treated: Readonly<Record<number, readonly Cure[]>> = {
  100: ["Show Log"],
  101: ["Open launch.json"],
  102: ["Open launch.json"],
  103: ["Open launch.json"],
  104: ["Open launch.json"],

  201: ["Open launch.json", "Choose Another Target"],
  202: ["Open launch.json", "Choose Another Target"],
  203: ["Run Doctor", "Open launch.json"],
  210: ["Run Doctor", "Show Log"],
  211: ["Run Doctor", "Show Log"],
  212: ["Run Doctor", "Show Log"],
  213: ["Mirror Instead", "Choose Another Target", "Open launch.json"],
  220: ["Run Doctor", "Open launch.json"],
  221: ["Open launch.json", "Run Doctor"],
  222: ["Run Doctor", "Open launch.json"],
  223: ["Run Doctor", "Open launch.json"],
  224: ["Run Doctor"],
  225: ["Run Doctor"],
  226: ["Run Doctor", "Show Log"],
  227: ["Choose Another Target", "Open launch.json"],
  228: ["Choose Another Target", "Run Doctor"],
  229: ["Choose Another Target", "Open launch.json"],
  230: ["Open launch.json", "Choose Another Target"],
  231: ["Choose Another Target", "Open launch.json"],

  301: ["Run Doctor"],
  302: ["Run Doctor"],
  303: ["Run Doctor"],
  304: ["Open Settings"], // a stepin.path of somebody's own build
  305: ["Run Doctor", "Open launch.json"],

  401: ["Run Doctor", "Open launch.json"],
  402: ["Show Log", "Run Doctor"],
  403: [], // the compiler's text is in the Debug Console, where Go developers look for it
  404: ["Open launch.json"],

  501: [], // somebody meant it
  502: [],
};

const buildFailed = 403;
const cancelled = "cancelled";

export function isFailure(message: unknown): message is FailedResponse {
  const m = message as Partial<FailedResponse> | undefined;
  return m?.type === "response" && m.success === false && shown.includes(m.command ?? "");
}

/** What the user reads: the sentence and the hint, without the word. undefined: nothing. */
export function sentence(failed: FailedResponse): string | undefined {
  if (failed.message === cancelled || code(failed) === buildFailed) return undefined;
  // An older stepin passes a request that it does not know to the real debugger, whose numbers are its own.
  if (asked(failed) && hundreds(failed) > 5) return "stepin: The stepin that runs is too old for this; stepin.path names it.";
  return `stepin: ${sentenceOf(failed.body?.error?.format ?? failed.message ?? "no reason given")}`;
}

/** An error's text as one line: the sentence, then its hints without the word. */
export function sentenceOf(text: string): string {
  const [first, ...rest] = text.split("\n");
  return [first, ...rest.map((line) => line.replace(/^hint: /, "")).filter(Boolean)].join(". ");
}

/** The buttons by the error's number; one of a later stepin has those of its hundred. */
export function cures(failed: FailedResponse): Cure[] {
  const known = [...(treated[code(failed)] ?? byHundred[hundreds(failed)] ?? ["Show Log"])];
  if (!asked(failed)) return known;
  return hundreds(failed) > 5 ? ["Open Settings"] : known.filter((cure) => cure === "Run Doctor" || cure === "Show Log"); // the session goes on
}

const byHundred: Readonly<Record<number, readonly Cure[]>> = {
  1: ["Open launch.json"],
  2: ["Choose Another Target", "Run Doctor"],
  3: ["Run Doctor"],
  4: ["Open launch.json", "Run Doctor"],
  5: [],
};

/** Whether it was asked of a session that runs. */
function asked({ command }: FailedResponse): boolean {
  return command.startsWith("stepin.");
}

function code(failed: FailedResponse): number {
  return failed.body?.error?.id ?? 100;
}

function hundreds(failed: FailedResponse): number {
  return Math.floor(code(failed) / 100);
}

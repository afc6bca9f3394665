// Errors as one sentence, with the buttons that mend them. Nothing here knows of VS Code.

/** What a button does. */
export type Cure = "Open launch.json" | "Choose Another Target" | "Run Doctor" | "Show Log";

/** A failed answer to launch or restart (DAP: ErrorResponse). */
export interface FailedResponse {
  type: "response";
  command: string;
  success: false;
  message?: string;
  body?: { error?: { id?: number; format?: string } };
}

/** The numbers of pkg/fail/codes.go that are treated apart; its hundreds say whose domain the others are. */
const buildFailed = 403; // the compiler's text is in the Debug Console, where Go developers look for it
const clusterFirst = 220;
const clusterLast = 226;
const cancelled = "cancelled";

export function isFailure(message: unknown): message is FailedResponse {
  const m = message as Partial<FailedResponse> | undefined;
  return m?.type === "response" && m.success === false && (m.command === "launch" || m.command === "restart");
}

/** What the user reads: the sentence and the hint, without the word. undefined: nothing. */
export function sentence(failed: FailedResponse): string | undefined {
  if (failed.message === cancelled || code(failed) === buildFailed) return undefined;
  const [first, ...rest] = (failed.body?.error?.format ?? failed.message ?? "no reason given").split("\n");
  const hints = rest.map((line) => line.replace(/^hint: /, "")).filter(Boolean);
  return `stepin: ${[first, ...hints].join(". ")}`;
}

/** The buttons by the error's number. */
export function cures(failed: FailedResponse): Cure[] {
  const id = code(failed);
  if (id >= clusterFirst && id <= clusterLast) return ["Run Doctor", "Open launch.json"];
  switch (Math.floor(id / 100)) {
    case 2:
      return ["Choose Another Target", "Run Doctor"];
    case 3:
      return ["Run Doctor"];
    case 4:
      return ["Open launch.json", "Run Doctor"];
    case 5:
      return [];
    default:
      return id === 100 ? ["Show Log"] : ["Open launch.json"];
  }
}

function code(failed: FailedResponse): number {
  return failed.body?.error?.id ?? 100;
}

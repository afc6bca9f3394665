// What `stepin targets -o json` says, as a list to pick from. Nothing here knows of VS Code.

/** One thing that can be a target. */
export interface Target {
  namespace: string;
  target: string; // as it is written: deployment/orders
  ready: number;
  of: number;
  containers?: string[];
  default?: string;
  note?: string; // why it cannot be a target now
  sessions?: Session[]; // who says to be on its pods
}

/** All that this user may see, and a sentence for each thing that he may not. */
export interface Listing {
  items: Target[];
  missing?: string[];
}

/** What `stepin targets --contexts -o json` says of one. */
export interface Context {
  name: string;
  cluster: string;
  namespace?: string;
  current?: boolean;
}

/** Who is on a target's pods, as sessions say of themselves. */
export interface Session {
  who: string;
  ports?: { network: string; port: number }[] | null;
  mode?: string;
}

/** A target that was picked before. */
export interface Used {
  namespace: string;
  target: string;
}

/** How many are remembered. */
const maxUsed = 20;

export function parse(text: string): Listing {
  const listing = JSON.parse(text) as { items?: Target[] | null; missing?: string[] };
  return { items: listing.items ?? [], ...(listing.missing ? { missing: listing.missing } : {}) };
}

/** The list as it is shown: those used before first, the last of them on top; then those that can be one now. */
export function sorted(items: Target[], used: Used[]): Target[] {
  const rank = (t: Target) => {
    const i = used.findIndex((u) => same(u, t));
    if (i >= 0) return i;
    return t.note ? maxUsed + 1 : maxUsed;
  };
  return [...items].sort((a, b) => rank(a) - rank(b)); // stable: stepin's own order stays
}

export function remembered(used: Used[], picked: Used): Used[] {
  const { namespace, target } = picked;
  return [{ namespace, target }, ...used.filter((u) => !same(u, picked))].slice(0, maxUsed);
}

function same(a: Used, b: Used): boolean {
  return a.namespace === b.namespace && a.target === b.target;
}

/** What stands behind a target's name: how many pods, why it cannot be one, and who is on them. */
export function describe(t: Target): string {
  return [`${t.ready}/${t.of} ready`, t.note ?? "", ...whoIsOn(t)].filter(Boolean).join(" · ");
}

/** A phrase for each session on a target's pods; what two say alike is said once. */
function whoIsOn(t: Target): string[] {
  const phrases = (t.sessions ?? []).map(({ who, mode, ports }) => {
    const which = (ports ?? []).map((p) => (p.network === "tcp" ? `${p.port}` : `${p.port}/${p.network}`)).join(", ");
    return [who || "somebody", mode ?? "", which].filter(Boolean).join(" ");
  });
  return [...new Set(phrases)];
}

/** The second line: where it is, and its containers where there are several. */
export function detail(t: Target, all: boolean): string {
  const containers = t.containers ?? [];
  const names = containers.map((c) => (c === t.default ? `${c} (default)` : c)).join(", ");
  return [all ? t.namespace : "", containers.length > 1 ? names : ""].filter(Boolean).join(" · ");
}

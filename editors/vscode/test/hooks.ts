// node --import ./test/hooks.ts: the module "vscode", which only VS Code has, is test/vscode.ts.
import { registerHooks } from "node:module";

registerHooks({
  resolve(specifier, context, next) {
    if (specifier !== "vscode") return next(specifier, context);
    return { url: new URL("vscode.ts", import.meta.url).href, shortCircuit: true };
  },
});

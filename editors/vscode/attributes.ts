// The configuration's schema as launch.json's editor wants it.

export interface Schema {
  $schema?: string;
  $id?: string;
  properties: Record<string, { pattern?: string; examples?: unknown[] }>;
  [key: string]: unknown;
}

/** debugger is all that must be written: where no target is, it is picked. */
export function attributes(schema: Schema): Schema {
  // Without additionalProperties, since VS Code has keys of its own (name, preLaunchTask …); stepin refuses what it does
  // not know.
  const { $schema, $id, title, additionalProperties, ...open } = schema;
  const target = schema.properties["target"];
  if (!target?.pattern) throw new Error("the schema's target has no pattern");
  return {
    ...open,
    properties: {
      ...schema.properties,
      target: { ...target, pattern: `(${target.pattern}|^pick$|\\$\\{.+\\})`, examples: ["pick", ...(target.examples ?? [])] },
    },
    required: ["debugger"],
  };
}

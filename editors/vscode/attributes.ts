// The configuration's schema as launch.json's editor wants it.

export interface Schema {
  $schema?: string;
  $id?: string;
  properties: Record<string, { pattern?: string; examples?: unknown[] }>;
  [key: string]: unknown;
}

/** debugger is all that must be written: where no target is, it is picked. */
export function attributes(schema: Schema): Schema {
  return { ...open(schema), required: ["debugger"] };
}

/** The block "stepin" in configurations of other types, whose own keys are the debugger's. */
export function block(schema: Schema): Schema {
  const { description, ...all } = open(schema);
  const { debugger: theirs, ...properties } = all.properties;
  return {
    ...all,
    description: "Run the program as if inside a Kubernetes pod (go, debugpy and node).",
    properties,
    additionalProperties: false,
    required: [],
  };
}

/** Without additionalProperties, since VS Code has keys of its own (name, preLaunchTask …); stepin refuses what it does not know. */
function open(schema: Schema): Schema {
  const { $schema, $id, title, additionalProperties, ...rest } = schema;
  const target = schema.properties["target"];
  if (!target?.pattern) throw new Error("the schema's target has no pattern");
  const pattern = `(${target.pattern}|^pick$|\\$\\{.+\\})`;
  return {
    ...rest,
    properties: { ...schema.properties, target: { ...target, pattern, examples: ["pick", ...(target.examples ?? [])] } },
  };
}

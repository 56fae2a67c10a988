/**
 * `npm run docs`: the API reference of all public entry points, as pages in the folder docs/. Fails where something that
 * is exported has no docstring, or a docstring names what is not there.
 */
import { fileURLToPath } from "node:url"
import * as TypeDoc from "typedoc"

const { ReflectionKind } = TypeDoc

const root = fileURLToPath(new URL("..", import.meta.url))

// entry points are those of package.json's exports, which TypeDoc finds by itself
const app = await TypeDoc.Application.bootstrap({
  name: "memsinks",
  tsconfig: `${root}tsconfig.build.json`,
  out: `${root}docs`,
  customCss: fileURLToPath(new URL("api.css", import.meta.url)),
  excludeExternals: true,
  excludePrivate: true,
  disableSources: true,
  logLevel: "Warn",
  // what an export is made of need not be one; links to folders of the repository stay as they are
  validation: { notExported: false, invalidLink: true, invalidPath: false, notDocumented: false },
  treatValidationWarningsAsErrors: true
})

const required = ReflectionKind.Variable | ReflectionKind.Function | ReflectionKind.Class | ReflectionKind.Interface |
  ReflectionKind.TypeAlias | ReflectionKind.Enum | ReflectionKind.Method | ReflectionKind.Accessor |
  ReflectionKind.Property

const isFunction = ({ type }: TypeDoc.DeclarationReflection): boolean =>
  type instanceof TypeDoc.ReflectionType && (type.declaration.signatures?.length ?? 0) > 0

/** Whether the docstring of an export, or of a function that an export has, is missing. */
const isBare = (one: TypeDoc.DeclarationReflection): boolean => {
  // a field that is no function may speak for itself; what TypeScript infers has no place for a docstring
  if (one.kindOf(ReflectionKind.Property) && !isFunction(one)) return false
  if (one.getFullName().includes("__type") || one.flags.isExternal || one.flags.isInherited) return false
  const signatures = one.getNonIndexSignatures()
  return !one.hasComment() && !(signatures.length > 0 && signatures.every((signature) => signature.hasComment())) &&
    !(one.type instanceof TypeDoc.ReflectionType &&
      one.type.declaration.signatures?.every((signature) => signature.hasComment()))
}

const project = await app.convert()
if (project === undefined) process.exit(1)
// as they are imported
for (const module of project.children ?? []) module.name = module.name === "" ? "memsinks" : `memsinks/${module.name}`
app.validate(project)
for (const one of project.getReflectionsByKind(required) as Array<TypeDoc.DeclarationReflection>) {
  if (isBare(one)) app.logger.error(`${one.getFullName()} has no docstring` as TypeDoc.TranslatedString)
}
if (!app.logger.hasErrors() && !app.logger.hasWarnings()) await app.generateOutputs(project)
if (app.logger.hasErrors() || app.logger.hasWarnings()) process.exit(1)

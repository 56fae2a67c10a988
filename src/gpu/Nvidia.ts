/**
 * What NVIDIA's Vulkan driver needs besides its kernel module. In a container parts are often not mounted, or the driver's own
 * file names a library that only works beside an X server: then there is no adapter, and nothing says why.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import process from "node:process"
import { cacheFolders } from "./SoftwareVulkan.ts"

/** What is looked at. */
export interface Machine {
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly exists: (file: string) => boolean
  /** Names in a folder; none where it cannot be read. */
  readonly list: (folder: string) => ReadonlyArray<string>
}

export const thisMachine: Machine = {
  environment: process.env,
  exists: fs.existsSync,
  list: (folder) => {
    try {
      return fs.readdirSync(folder)
    } catch {
      return []
    }
  }
}

/** Whether the kernel module of NVIDIA's driver is loaded, and seen from here. */
export const hasNvidia = ({ exists }: Machine): boolean =>
  ["/dev/nvidiactl", "/proc/driver/nvidia/version"].some(exists)

const libraryFolders = ({ environment }: Machine): ReadonlyArray<string> => [
  ...(environment["LD_LIBRARY_PATH"] ?? "").split(":").filter((folder) => folder !== ""),
  ...["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/lib/wsl/lib"],
  ...["/usr/local/nvidia/lib64", "/usr/local/nvidia/lib"]
]

/** Folders where a Vulkan loader, or this library, looks for the file that names a driver. */
export const driverFolders: ReadonlyArray<string> = ["/etc", "/usr/share", "/usr/local/etc", "/usr/local/share",
  "/usr/local/nvidia/share"].map((root) => `${root}/vulkan/icd.d`)

const parts: ReadonlyArray<readonly [library: string, role: string]> = [
  ["libGLX_nvidia.so", "the Vulkan driver"],
  ["libEGL_nvidia.so", "the Vulkan driver where there is no X server"],
  ["libnvidia-glvkspirv.so", "which compiles shaders"],
  ["libnvidia-gpucomp.so", "which compiles shaders, of newer drivers"]
]

/** What NVIDIA's Vulkan driver lacks here, by name; nothing where there is no such GPU. */
export const missingParts = (machine: Machine = thisMachine): ReadonlyArray<string> => {
  if (!hasNvidia(machine)) return []
  const libraries = libraryFolders(machine).flatMap((folder) => machine.list(folder))
  const asked = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES"].some((key) =>
    machine.environment[key] !== undefined
  )
  const named = driverFolders.flatMap((folder) => machine.list(folder)).some((file) => /nvidia.*\.json$/.test(file))
  return [
    ...(asked || named ? [] : [`a file that names the driver, nvidia_icd.json in ${driverFolders[1]}`]),
    ...parts.filter(([library]) => !libraries.some((file) => file.startsWith(library)))
      .map(([library, role]) => `${library} (${role})`)
  ]
}

/** The library that a second driver file names. */
export const secondLibrary = "libEGL_nvidia.so.0"

/**
 * A driver file to try where NVIDIA's own gives no adapter: its path, once it is written. Undefined where there is no such
 * GPU, where the environment names the drivers, or where no folder can be written.
 *
 * @param folders where to keep it, the first that can be written; default: the user's cache folders
 */
export const secondDriver = (
  machine: Machine = thisMachine,
  folders: ReadonlyArray<string> = cacheFolders()
): string | undefined => {
  const { environment } = machine
  if (!hasNvidia(machine) || environment["VK_DRIVER_FILES"] !== undefined ||
    environment["VK_ICD_FILENAMES"] !== undefined)
  {
    return undefined
  }
  const manifest = { file_format_version: "1.0.0", ICD: { library_path: secondLibrary, api_version: "1.3.0" } }
  for (const folder of folders) {
    try {
      const file = path.join(folder, "nvidia_egl_icd.json")
      fs.mkdirSync(folder, { recursive: true, mode: 0o700 })
      fs.writeFileSync(file, `${JSON.stringify(manifest)}\n`)
      return file
    } catch {
      // the next folder, then
    }
  }
  return undefined
}

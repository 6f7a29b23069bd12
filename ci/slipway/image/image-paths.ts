/**
 * Maps paths of the project to paths in the image.
 *
 * The image's working directory replaces the project directory, so relative paths like `./public` or `src/views` work
 * in both. The working directory is not the root for two reasons: some services append a slash to the working
 * directory, and `files` can contain names of system directories like `lib` or `etc`.
 */
import { dirname, join, relative } from "node:path";
import { placePattern } from "./path-expressions.ts";

/** Working directory in the image. Not `/app`, because a service is more likely to be named `app` than `srv`. */
export const APP_DIRECTORY = "/srv";

/** Returns the path in the image of a file of the project, or of its workspace. */
export const imagePathOf = (file: string, project: string): string =>
  packageOf(file) ? `/${installedPath(file)}` : join(APP_DIRECTORY, relative(project, file));

/** Returns the directories of modules in the image that use their path, so that `${import.meta.dir}/..` works. */
export function moduleDirectories(source: Iterable<[string, Buffer]>, project: string): Set<string> {
  const asking = [...source].filter(([, text]) => placePattern.test(text.toString()));
  const directories = asking.map(([file]) => dirname(imagePathOf(file, project)));
  return new Set(
    directories.filter((directory) => [APP_DIRECTORY, PACKAGES].some((parent) => directory.startsWith(`${parent}/`))),
  );
}

/** Directory of packages in the image. The binary's modules resolve packages there. */
const PACKAGES = "/node_modules";

/** Directory of modules without a declaration. It does not exist in the image. */
export const UNKNOWN_DIRECTORY = "/node_modules/.bundled";

/** Returns the package that has a file. */
export function packageOf(file: string): { name: string; directory: string } | undefined {
  const [, directory = "", name = ""] = /^(.*\/node_modules\/((?:@[^/]+\/)?[^/.][^/]*))(?:\/|$)/.exec(file) ?? [];
  return name === "" ? undefined : { name, directory };
}

/** Returns the path of a package's file in the image, without a leading slash and the directories of a linked store. */
export function installedPath(file: string): string {
  const store = file.replace(/^.*\/node_modules\/\.(?:bun|pnpm)\/[^/]+\/node_modules\//, "/node_modules/");
  return store.slice(store.indexOf("/node_modules/") + 1);
}

/** The fields of package.json that slipway reads. */
export interface PackageJson {
  name?: string;
  version?: string;
  description?: string;
  /** Old packages have an object. */
  license?: string | { type?: string };
  type?: string;
  module?: string;
  main?: string;
  scripts?: Record<string, string>;
  workspaces?: string[] | { packages?: string[] };
  packageManager?: string;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  patchedDependencies?: Record<string, string>;
}

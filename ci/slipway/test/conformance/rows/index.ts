/** All rows of the suite. Add a row to the file of its kind. */
import type { Row } from "../row.ts";
import { bunRows } from "./bun.ts";
import { dataRows } from "./data.ts";
import { fileRows } from "./files.ts";
import { frameworkRows } from "./frameworks.ts";
import { libraryRows } from "./libraries.ts";

export const rows: Row[] = [...bunRows, ...frameworkRows, ...fileRows, ...dataRows, ...libraryRows];

/** Documents, help texts and messages are in plain language, and one exported name has one meaning. CONTRIBUTING.md has the rules. */
import { describe, expect, test } from "bun:test";
import {
  commentsOf,
  documents,
  measure,
  messagesOf,
  privateWords,
  proseOf,
  read,
  sentencesOf,
  sources,
  wordsOf,
} from "../measure-language.ts";

const MAX_WORDS = 30;
const MAX_COLUMNS = 120;

/** Problems of a text, each with the sentence. */
function problemsOf(place: string, texts: string[]): string[] {
  return texts.flatMap((text) => [
    ...sentencesOf(text).flatMap((sentence) => {
      const { length } = wordsOf(sentence);
      return [
        ...(length > MAX_WORDS ? [`${place}: ${length} words: ${sentence}`] : []),
        ...(/^(?:What|Who|Whoever)\b(?!.*\?)/.test(sentence) ? [`${place}: starts badly: ${sentence}`] : []),
      ];
    }),
    ...privateWords.flatMap(([pattern, standard]) => {
      const found = pattern.exec(text);
      return found ? [`${place}: "${found[0]}", say ${standard}: ${text.slice(0, 100)}`] : [];
    }),
  ]);
}

describe("documents", () => {
  test("are found", () => expect(documents().length).toBeGreaterThan(10));

  test.each(documents())("%s is in plain language", (path) => {
    const text = read(path);
    expect(problemsOf(path, proseOf(text))).toEqual([]);
    const long = text.split("\n").flatMap((line, index) => {
      const isTable = /^\s*\|/.test(line);
      return !isTable && line.length > MAX_COLUMNS ? [`${path}:${index + 1}: ${line.length} columns`] : [];
    });
    expect(long).toEqual([]);
  });

  test("address the reader, in short sentences, and say what happens", () => {
    const figures = measure(documents().flatMap((path) => proseOf(read(path))));
    expect(figures.median).toBeLessThanOrEqual(14);
    expect(figures.percentile90).toBeLessThanOrEqual(24);
    expect(figures.youPer1000).toBeGreaterThanOrEqual(15);
    expect(figures.clausesPer1000).toBeLessThanOrEqual(0.5);
    expect(figures.negationsPer1000).toBeLessThanOrEqual(9);
  });
});

describe("sources", () => {
  test("have messages and help texts in plain language", () => {
    const problems = sources().flatMap((path) => problemsOf(path, messagesOf(read(path))));
    expect(problems).toEqual([]);
  });

  test("have comments that name their subjects", () => {
    const comments = sources().flatMap((path) => commentsOf(read(path)));
    expect(measure(comments).clausesPer1000).toBeLessThanOrEqual(1);
  });

  test("export each name once", () => {
    const places = new Map<string, string[]>();
    for (const path of sources()) {
      // Declarations repeat the names of the modules that they declare.
      if (path.endsWith(".d.ts")) continue;
      const declared = /^export (?:async )?(?:function\*?|const|let|class|interface|type) (\w+)/gm;
      for (const [, name] of read(path).matchAll(declared)) {
        const folder = path.startsWith("src/") ? "src" : "ci";
        places.set(`${folder} ${name}`, [...(places.get(`${folder} ${name}`) ?? []), path]);
      }
    }
    const twice = [...places].filter(([, paths]) => new Set(paths).size > 1);
    expect(twice.map(([name, paths]) => `${name}: ${paths.join(", ")}`)).toEqual([]);
  });
});

test("the rules find what they are for", () => {
  const long = `${"word ".repeat(31)}end.`;
  const bad = ["What is there stays.", "It is halfway.", long, "a fault of the surroundings"];
  expect(problemsOf("x", bad)).toHaveLength(4);
  expect(problemsOf("x", ["What does it do?", "It says `halfway`.", "Run it."].flatMap(proseOf))).toEqual([]);
  expect(messagesOf('log(`a ${b ? `c` : d} e`); new PipelineError("x", "no f", { hint: "Run g." })')).toEqual(
    expect.arrayContaining(["no f", "Run g."]),
  );
});

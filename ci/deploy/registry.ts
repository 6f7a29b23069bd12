export async function digestOf(_r: string, _o: { signal: AbortSignal }): Promise<string | undefined> {
  return undefined;
}
export async function push(_a: string, _r: string, _o: { signal: AbortSignal }): Promise<string> {
  return "";
}

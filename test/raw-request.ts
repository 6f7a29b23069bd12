/**
 * Sends bytes over a new connection and returns everything received until the server closes it. Unlike fetch(), it hides and
 * corrects nothing.
 */
export async function exchange(url: URL | string, bytes: string): Promise<string> {
  const { hostname, port } = new URL(url);
  let text = "";
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  await Bun.connect({
    hostname,
    port: Number(port),
    socket: {
      open: (socket) => void socket.write(bytes),
      data: (_, data) => void (text += data),
      close: () => resolve(),
      error: (_, error) => reject(error),
    },
  });
  await promise;
  return text;
}

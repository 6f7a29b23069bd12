/**
 * Sends bytes over a connection of its own and returns all that comes back until the server closes it: what fetch()
 * hides or corrects is seen here.
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

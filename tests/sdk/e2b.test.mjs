// A sandbox's life through the E2B JavaScript SDK. Address and key come from the environment.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { CommandExitError, Sandbox } from 'e2b'

let sandbox

before(async () => {
  sandbox = await Sandbox.create({ timeoutMs: 600_000, requestTimeoutMs: 180_000, metadata: { from: 'javascript' }, envs: { A: '1' } })
})

after(async () => {
  await sandbox?.kill()
})

test('commands', async () => {
  const result = await sandbox.commands.run('echo out-$A; echo err >&2')
  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out-1\n', 'err\n', 0])
  await assert.rejects(sandbox.commands.run('exit 7'), (error) => error instanceof CommandExitError && error.exitCode === 7)
})

test('background command with standard input', async () => {
  const handle = await sandbox.commands.run('cat', { background: true, stdin: true })
  assert.ok((await sandbox.commands.list()).some((process) => process.pid === handle.pid))
  await sandbox.commands.sendStdin(handle.pid, 'hello\n')
  await sandbox.commands.closeStdin(handle.pid)
  assert.equal((await handle.wait()).stdout, 'hello\n')
})

test('files', async () => {
  await sandbox.files.write('/tmp/js/a.txt', 'grüß')
  assert.equal(await sandbox.files.read('/tmp/js/a.txt'), 'grüß')
  assert.deepEqual((await sandbox.files.list('/tmp/js')).map((entry) => entry.name), ['a.txt'])
  assert.equal(await sandbox.files.makeDir('/tmp/js/dir'), true)
  assert.equal(await sandbox.files.makeDir('/tmp/js/dir'), false)
  await sandbox.files.rename('/tmp/js/a.txt', '/tmp/js/b.txt')
  assert.equal(await sandbox.files.exists('/tmp/js/a.txt'), false)
  await sandbox.files.remove('/tmp/js')
  assert.equal(await sandbox.files.exists('/tmp/js'), false)
})

test('watched directory', async () => {
  await sandbox.files.makeDir('/tmp/watched')
  const names = []
  let saw
  const written = new Promise((resolve) => (saw = resolve))
  const watch = await sandbox.files.watchDir('/tmp/watched', (event) => {
    names.push(event.name)
    if (event.type === 'write') saw()
  })
  await sandbox.files.write('/tmp/watched/new', 'x')
  await written
  await watch.stop()
  assert.ok(names.every((name) => name === 'new'))
})

test('pause and connect keep memory', async () => {
  await sandbox.files.write('/dev/shm/memory', 'in memory', { user: 'root' })
  assert.equal(await sandbox.pause(), true)
  assert.equal(await sandbox.isRunning(), false)
  sandbox = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 600_000, requestTimeoutMs: 180_000 })
  assert.equal(await sandbox.files.read('/dev/shm/memory', { user: 'root' }), 'in memory')
})

test('timeout and list', async () => {
  await sandbox.setTimeout(900_000)
  const page = Sandbox.list({ query: { metadata: { from: 'javascript' }, state: ['running'] } })
  assert.ok((await page.nextItems()).some((info) => info.sandboxId === sandbox.sandboxId))
})

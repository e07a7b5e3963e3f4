// A real OpenID provider (npm's oidc-provider) for tests: device and code flow, entitlements in its
// tokens. It writes its address to standard output. `/test/sign` signs any claims with its key, or with
// a key of nobody's.
import http from 'node:http';
import { createRequire } from 'node:module';
import { generateKeyPairSync } from 'node:crypto';

const require = createRequire(process.env.NODE_HOME + '/');
const load = async (name) => import(require.resolve(name));
const { Provider } = await load('oidc-provider');
const { SignJWT, importJWK } = await load('jose');

const port = Number(process.argv[2] ?? 0);
const kid = process.argv[3] ?? 'one';
const jwk = (name) => ({
  ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }),
  kid: name, alg: 'RS256', use: 'sig',
});
const key = jwk(kid);
const strange = jwk(kid);

const server = http.createServer();
await new Promise((ready) => server.listen(port, '127.0.0.1', ready));
const issuer = `http://127.0.0.1:${server.address().port}`;

const entitlements = {
  alice: ['urn:mace:egi.eu:group:vo.example.org:role=member#aai.egi.eu'],
  bob: ['urn:mace:egi.eu:group:vo.elsewhere.org:role=member#aai.egi.eu'],
};
const provider = new Provider(issuer, {
  clients: [{
    client_id: 'infall',
    token_endpoint_auth_method: 'none',
    application_type: 'native',
    grant_types: ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code'],
    response_types: ['code'],
    redirect_uris: ['http://127.0.0.1/callback'],
  }],
  jwks: { keys: [key] },
  claims: { openid: ['sub', 'eduperson_entitlement'] },
  conformIdTokenClaims: false,
  pkce: { required: () => true, methods: ['S256'] },
  features: { deviceFlow: { enabled: true }, devInteractions: { enabled: true } },
  cookies: { keys: ['only for tests'] },
  async findAccount(ctx, id) {
    return {
      accountId: id,
      claims: async () => ({ sub: id, eduperson_entitlement: entitlements[id] ?? [] }),
    };
  },
});
const answer = provider.callback();
server.on('request', async (request, response) => {
  const url = new URL(request.url, issuer);
  if (url.pathname !== '/test/sign') return answer(request, response);
  const claims = JSON.parse(url.searchParams.get('claims'));
  const now = Math.floor(Date.now() / 1000);
  const by = url.searchParams.get('by') === 'strange' ? strange : key;
  const header = { alg: 'RS256', kid: url.searchParams.get('kid') ?? kid };
  const full = { iss: issuer, aud: 'infall', iat: now, exp: now + 600, jti: `${Math.random()}`, ...claims };
  const token = await new SignJWT(full).setProtectedHeader(header).sign(await importJWK(by, 'RS256'));
  response.end(token);
});
console.log(issuer);

// Hocuspocus 4 declares Node 22. What the tests use of it works on Node 20.19, which is what we promise, and
// `engineStrict` would refuse the installation there. Only this development dependency is let in.
module.exports = {
  hooks: {
    readPackage(manifest) {
      if (manifest.name === "@hocuspocus/server" && manifest.version.startsWith("4."))
        manifest.engines = { node: ">=20.19" };
      return manifest;
    },
  },
};

"""Authentication to registries: credentials, `WWW-Authenticate` challenges, bearer tokens by scope.

authenticator.py       one entry's `Authorization` for a scope, and what a 401 teaches
challenge.py           challenges and scopes; token_server.py: tokens had by them
credentials.py         logins as operators entered them; docker_config.py: those of docker's file
credential_helper.py   docker's credential helpers; login_files.py: files that logins are read from
identities.py          which identities of clouds an entry may use
aws.py, azure.py, google.py, alibaba.py, tencent.py, github_app.py, oidc.py   logins by one vendor's identity each
issuer.py              requests to issuers of logins; renewal.py: logins that end, renewed ahead (single-flight)
"""
